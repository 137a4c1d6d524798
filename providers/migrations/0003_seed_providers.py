"""A provider for every kind that the environment can set up."""

from typing import Any

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

SEEDS = (
    {"kind": "openai", "api_key_env": "OPENAI_API_KEY", "base_url_env": "OPENAI_BASE_URL"},
    {"kind": "anthropic", "api_key_env": "ANTHROPIC_API_KEY", "base_url_env": "ANTHROPIC_BASE_URL"},
    {"kind": "ollama", "base_url_env": "OLLAMA_HOST"},
    {"kind": "lmstudio", "base_url_env": "LMSTUDIO_HOST"},
    {"kind": "huggingface", "api_key_env": "HF_TOKEN"},
    {"kind": "mlx"},
)
UNCOMPARED = ("id", "created_at", "updated_at")


def add_seeds(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    providers = apps.get_model("providers", "Provider").objects.using(editor.connection.alias)
    for seed in SEEDS:
        providers.get_or_create(name=seed["kind"], defaults=seed)


def remove_untouched_seeds(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    """Leaves what an operator changed or hung a deployment on."""
    model = apps.get_model("providers", "Provider")
    for seed in SEEDS:
        fresh = model(name=seed["kind"], **seed)
        for row in model.objects.using(editor.connection.alias).filter(
            name=fresh.name, deployments=None
        ):
            if compared(row) == compared(fresh):
                row.delete()


def compared(row: Any) -> dict[str, Any]:
    fields = (field.attname for field in row._meta.concrete_fields)
    return {name: getattr(row, name) for name in fields if name not in UNCOMPARED}


class Migration(migrations.Migration):
    dependencies = [("providers", "0002_count_changes")]

    operations = [migrations.RunPython(add_seeds, remove_untouched_seeds)]
