"""Changes of tools and MCP servers raise the configuration's revision too."""

from django.db import migrations

from providers.revision import count_changes


class Migration(migrations.Migration):
    dependencies = [("tools_app", "0001_initial"), ("providers", "0002_count_changes")]

    operations = [count_changes("tools_app_tool", "tools_app_mcpserver")]
