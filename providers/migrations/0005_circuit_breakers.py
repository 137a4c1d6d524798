"""Circuit breakers: their limits on providers and deployments, and how they are."""

from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import migrations, models
from django.db.models.functions import Now

from providers.revision import keep_counting

STATES = ("closed", "open", "half_open")
PART = [MinValueValidator(0.0), MaxValueValidator(1.0)]


def provider_limits() -> dict[str, Any]:
    return {
        "breaker_failures": models.PositiveSmallIntegerField(
            default=5,
            help_text="Of a deployment, in the window. 0: never.",
            verbose_name="failures that open",
        ),
        "breaker_rate": models.FloatField(
            default=0.5,
            help_text="Which those failures must be, 0 to 1.",
            validators=PART,
            verbose_name="part of the calls",
        ),
        "breaker_window_s": models.FloatField(default=30.0, verbose_name="window, s"),
        "breaker_open_s": models.FloatField(
            default=30.0, help_text="Then one call is tried.", verbose_name="open for, s"
        ),
    }


def deployment_limits() -> dict[str, Any]:
    return {
        "breaker_failures": models.PositiveSmallIntegerField(
            blank=True,
            help_text="Empty: the provider's.",
            null=True,
            verbose_name="failures that open",
        ),
        "breaker_rate": models.FloatField(
            blank=True, null=True, validators=PART, verbose_name="part of the calls"
        ),
        "breaker_window_s": models.FloatField(blank=True, null=True, verbose_name="window, s"),
        "breaker_open_s": models.FloatField(blank=True, null=True, verbose_name="open for, s"),
    }


def columns(model_name: str, fields: dict[str, Any]) -> list[migrations.AddField]:
    return [
        migrations.AddField(model_name=model_name, name=name, field=field)
        for name, field in fields.items()
    ]


def constraint(model_name: str) -> migrations.AddConstraint:
    return migrations.AddConstraint(
        model_name=model_name,
        constraint=models.CheckConstraint(
            condition=models.Q(breaker_rate__gte=0)
            & models.Q(breaker_rate__lte=1)
            & models.Q(breaker_window_s__gt=0)
            & models.Q(breaker_open_s__gt=0),
            name=f"{model_name}_breaker_limits",
            violation_error_message="A breaker's times must be greater than zero, and its part of "
            "the calls between 0 and 1.",
        ),
    )


class Migration(migrations.Migration):
    dependencies = [("providers", "0004_measured_capabilities")]

    operations = [
        migrations.CreateModel(
            name="CircuitBreaker",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("provider", models.CharField(max_length=100)),
                ("model", models.CharField(max_length=200)),
                (
                    "state",
                    models.CharField(choices=[(s, s) for s in STATES], max_length=16),
                ),
                ("until", models.DateTimeField(null=True)),
                ("version", models.BigIntegerField(default=0)),
                ("calls", models.JSONField(default=list)),
                ("changed_at", models.DateTimeField(db_default=Now())),
            ],
        ),
        migrations.AddConstraint(
            model_name="circuitbreaker",
            constraint=models.UniqueConstraint(
                fields=("provider", "model"), name="circuit_breaker_unique"
            ),
        ),
        keep_counting("providers_provider", "providers_deployment"),
        *columns("provider", provider_limits()),
        *columns("historicalprovider", provider_limits()),
        *columns("deployment", deployment_limits()),
        *columns("historicaldeployment", deployment_limits()),
        constraint("provider"),
        constraint("deployment"),
        keep_counting("providers_provider", "providers_deployment"),
    ]
