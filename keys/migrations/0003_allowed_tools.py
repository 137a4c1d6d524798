"""Which registered tools a key may use."""

from django.db import migrations, models

import keys.models
from providers.revision import keep_counting


def column(model_name: str) -> migrations.AddField:
    field = models.JSONField(
        blank=True,
        default=None,
        help_text='Globs on the names of registered tools, such as ["get_*"]. Empty: all of them.',
        null=True,
        validators=[keys.models.validate_tool_globs],
        verbose_name="allowed tools",
    )
    return migrations.AddField(model_name=model_name, name="allowed_tools", field=field)


class Migration(migrations.Migration):
    dependencies = [("keys", "0002_count_changes")]

    operations = [
        keep_counting("keys_virtualkey"),
        column("virtualkey"),
        column("historicalvirtualkey"),
        keep_counting("keys_virtualkey"),
    ]
