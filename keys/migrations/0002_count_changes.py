"""Changes of virtual keys raise the configuration's revision too."""

from django.db import migrations

from providers.revision import count_changes


class Migration(migrations.Migration):
    dependencies = [("keys", "0001_initial"), ("providers", "0002_count_changes")]

    operations = [count_changes("keys_virtualkey")]
