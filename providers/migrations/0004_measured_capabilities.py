"""What a probe found out about a deployment, and the words it is known by."""

from django.db import migrations, models

from providers.revision import keep_counting


def columns(model_name: str) -> list[migrations.AddField]:
    fields: dict[str, models.Field] = {  # type: ignore[type-arg]
        "measured_capabilities": models.JSONField(blank=True, default=dict, editable=False),
        "measured_evidence": models.JSONField(blank=True, default=dict, editable=False),
        "measured_at": models.DateTimeField(blank=True, editable=False, null=True),
        "measured_upstream": models.CharField(blank=True, editable=False, max_length=64),
    }
    return [
        migrations.AddField(model_name=model_name, name=name, field=field)
        for name, field in fields.items()
    ]


class Migration(migrations.Migration):
    dependencies = [("providers", "0003_seed_providers")]

    operations = [
        keep_counting("providers_deployment"),
        *columns("deployment"),
        *columns("historicaldeployment"),
        keep_counting("providers_deployment"),
    ]
