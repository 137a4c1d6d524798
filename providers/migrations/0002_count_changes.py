"""The revision row, and triggers that raise it."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from providers.revision import count_changes


def make_row(apps: Apps, _: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("providers", "ConfigRevision").objects.get_or_create(pk=1)


class Migration(migrations.Migration):
    dependencies = [("providers", "0001_initial")]

    operations = [
        migrations.RunPython(make_row, migrations.RunPython.noop),
        count_changes(
            "providers_provider",
            "providers_deployment",
            "providers_price",
            "providers_route",
            "providers_routetarget",
        ),
    ]
