"""Virtual keys: the credentials we issue."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from simple_history.models import HistoricalRecords

from providers.models import validate_name

MIN_SECRET_LENGTH = 20


def make_secret() -> str:
    """A new secret: `gw-` and 43 url-safe characters, 256 random bits."""
    return f"gw-{secrets.token_urlsafe(32)}"


def digest(secret: str) -> str:
    """What is stored of a secret. Unsalted SHA-256 is enough for 256 random bits, and lets one
    indexed look-up find the key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def validate_globs(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(glob, str) and glob for glob in value):
        raise ValidationError('Use a list of model names or globs, such as ["smart", "openai/*"].')


def validate_tool_globs(value: Any) -> None:
    # Not the empty list: a form shows it as it shows None, which is everything.
    if not (isinstance(value, list) and value and all(isinstance(g, str) and g for g in value)):
        raise ValidationError('Use a list of names or globs of tools, such as ["get_*"].')


class BudgetPeriod(models.TextChoices):
    DAY = "day", "Day"
    MONTH = "month", "Month"
    TOTAL = "total", "Total"


class VirtualKey(models.Model):
    """A credential of the gateway: what it may use and how much of it."""

    name = models.CharField(max_length=100, unique=True, validators=[validate_name])
    secret_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(
        max_length=16, editable=False, help_text="The first characters of the secret."
    )
    enabled = models.BooleanField(default=True, help_text="Switched off, a key is revoked.")
    admin = models.BooleanField(default=False, help_text="May see and test everything.")
    allowed_models = models.JSONField(
        "allowed models",
        null=True,
        blank=True,
        default=None,
        validators=[validate_globs],
        help_text='Globs on the public name, such as ["smart", "openai/*"]. Empty: everything.',
    )
    allowed_tools = models.JSONField(
        "allowed tools",
        null=True,
        blank=True,
        default=None,
        validators=[validate_tool_globs],
        help_text='Globs on the names of registered tools, such as ["get_*"]. Empty: all of them.',
    )
    rpm = models.PositiveIntegerField(
        "requests a minute", null=True, blank=True, validators=[MinValueValidator(1)]
    )
    tpm = models.PositiveBigIntegerField(
        "tokens a minute", null=True, blank=True, validators=[MinValueValidator(1)]
    )
    max_parallel = models.PositiveIntegerField(
        "requests at once", null=True, blank=True, validators=[MinValueValidator(1)]
    )
    budget_usd = models.DecimalField(
        "budget, USD",
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="Empty: unlimited. 0: nothing.",
    )
    budget_period = models.CharField(
        max_length=8, choices=BudgetPeriod.choices, default=BudgetPeriod.MONTH
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    history = HistoricalRecords(excluded_fields=["secret_sha256"])

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def set_secret(self, secret: str) -> None:
        """Keeps a digest of the secret and enough of it to be recognised by."""
        self.secret_sha256 = digest(secret)
        self.hint = f"{secret[:7]}…"

    def is_valid_at(self, moment: datetime) -> bool:
        return self.enabled and (self.expires_at is None or moment < self.expires_at)
