"""What operators configure: providers, deployments, prices, routes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from hashlib import sha256
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone
from simple_history.models import HistoricalRecords

from providers.breaker_rows import CircuitBreaker as CircuitBreaker
from providers.capabilities import CAPABILITY_NAMES
from providers.secrets import EncryptedTextField, decrypt, encrypt

validate_name = RegexValidator(
    r"\A[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}\Z",
    "Use letters, digits, dots, underscores and hyphens; begin with a letter or digit.",
)
validate_variable = RegexValidator(
    r"\A[A-Za-z_][A-Za-z0-9_]*\Z", "This is not the name of an environment variable."
)


def validate_base_url(value: str) -> None:
    """An http(s) URL with a host and nothing but a path: a query or user in it would leak."""
    from urllib.parse import urlsplit

    try:
        url = urlsplit(value)
        port_is_legal = url.port is None or url.port > 0
    except ValueError:
        raise ValidationError("This is not a URL.") from None
    plain = not (url.query or url.fragment or url.username or url.password)
    if url.scheme not in ("http", "https") or not url.hostname or not port_is_legal or not plain:
        raise ValidationError("Use an http:// or https:// URL of a host, a port and a path only.")


class Kind(models.TextChoices):
    OPENAI = "openai", "OpenAI"
    OPENAI_COMPATIBLE = "openai-compatible", "OpenAI-compatible"
    ANTHROPIC = "anthropic", "Anthropic"
    OLLAMA = "ollama", "Ollama"
    LMSTUDIO = "lmstudio", "LM Studio"
    MLX = "mlx", "MLX"
    HUGGINGFACE = "huggingface", "Hugging Face"
    FAKE = "fake", "Fake (demos and tests)"


def kind_choices() -> list[tuple[str, str]]:
    """A callable, so that a new kind needs no migration."""
    return list(Kind.choices)


ENVIRONMENT: dict[str, tuple[str, str]] = {
    Kind.OPENAI: ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    Kind.ANTHROPIC: ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    Kind.OLLAMA: ("", "OLLAMA_HOST"),
    Kind.LMSTUDIO: ("", "LMSTUDIO_HOST"),
    Kind.HUGGINGFACE: ("HF_TOKEN", ""),
    Kind.MLX: ("", ""),
}
"""For providers the environment makes: the variables of their credential and their address."""


def _breaker_constraint(table: str) -> models.CheckConstraint:
    """Of columns that may be null, which no condition fails."""
    return models.CheckConstraint(
        condition=models.Q(breaker_rate__gte=0)
        & models.Q(breaker_rate__lte=1)
        & models.Q(breaker_window_s__gt=0)
        & models.Q(breaker_open_s__gt=0),
        name=f"{table}_breaker_limits",
        violation_error_message="A breaker's times must be greater than zero, and its part of the "
        "calls between 0 and 1.",
    )


class Provider(models.Model):
    """A configured upstream account or server. Its kind says which adapter speaks to it."""

    name = models.CharField(max_length=100, unique=True, validators=[validate_name])
    kind = models.CharField(max_length=32, choices=kind_choices)
    enabled = models.BooleanField(default=True)
    base_url = models.CharField(
        "base URL",
        max_length=500,
        blank=True,
        validators=[validate_base_url],
        help_text="Empty: the kind's own address.",
    )
    base_url_env = models.CharField(
        "base URL from variable", max_length=100, blank=True, validators=[validate_variable]
    )
    api_key = EncryptedTextField("API key", blank=True, editable=False)
    api_key_env = models.CharField(
        "API key from variable",
        max_length=100,
        blank=True,
        validators=[validate_variable],
        help_text="The environment variable that holds the credential, instead of storing it.",
    )
    timeout_connect_s = models.FloatField("connect timeout, s", default=5.0)
    timeout_first_byte_s = models.FloatField("first-byte timeout, s", default=60.0)
    timeout_idle_s = models.FloatField("idle timeout, s", default=60.0)
    timeout_total_s = models.FloatField("total timeout, s", default=600.0)
    max_retries = models.PositiveSmallIntegerField(default=2)
    breaker_failures = models.PositiveSmallIntegerField(
        "failures that open", default=5, help_text="Of a deployment, in the window. 0: never."
    )
    breaker_rate = models.FloatField(
        "part of the calls",
        default=0.5,
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)],
        help_text="Which those failures must be, 0 to 1.",
    )
    breaker_window_s = models.FloatField("window, s", default=30.0)
    breaker_open_s = models.FloatField(
        "open for, s", default=30.0, help_text="Then one call is tried."
    )
    options = models.JSONField(
        default=dict, blank=True, help_text="What the kind's adapter takes beside (fake: a script)."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    history = HistoricalRecords(excluded_fields=["api_key"])

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(timeout_connect_s__gt=0)
                & models.Q(timeout_first_byte_s__gt=0)
                & models.Q(timeout_idle_s__gt=0)
                & models.Q(timeout_total_s__gt=0),
                name="provider_timeouts_positive",
                violation_error_message="Timeouts must be greater than zero.",
            ),
            _breaker_constraint("provider"),
        ]

    def __str__(self) -> str:
        return self.name

    def set_api_key(self, secret: str) -> None:
        """Stores a credential encrypted; an empty one removes it."""
        self.api_key = encrypt(secret)

    def reveal_api_key(self) -> str:
        """The credential in force: the stored one, else the named variable's. Raises
        SecretUnreadable."""
        stored = decrypt(self.api_key)
        return stored or (read_variable(self.api_key_env) if self.api_key_env else "")

    def effective_base_url(self) -> str:
        """The configured address, else the named variable's, else empty: the kind's own."""
        named = read_variable(self.base_url_env) if self.base_url_env else ""
        url = self.base_url or named
        return f"http://{url}" if url and "://" not in url else url

    def clean(self) -> None:
        if self.kind == Kind.OPENAI_COMPATIBLE and not (self.base_url or self.base_url_env):
            raise ValidationError({"base_url": "An OpenAI-compatible provider needs its address."})
        if not isinstance(self.options, dict):
            raise ValidationError({"options": "Options must be a JSON object."})


def read_variable(name: str) -> str:
    """An environment variable, or the content of the file `<name>_FILE` names."""
    if name in os.environ:
        return os.environ[name].strip()
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def validate_capabilities(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValidationError("Capabilities must be a JSON object.")
    for name, flag in value.items():
        if name not in CAPABILITY_NAMES:
            raise ValidationError(f"{name!r} is not one of {', '.join(CAPABILITY_NAMES)}.")
        if not isinstance(flag, bool):
            raise ValidationError(f"The capability {name!r} must be true or false.")


class Deployment(models.Model):
    """One upstream model on one provider, with what the operator knows better than its kind."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="deployments")
    model = models.CharField(max_length=200, help_text="The upstream's own name of the model.")
    enabled = models.BooleanField(default=True)
    capabilities = models.JSONField(default=dict, blank=True, validators=[validate_capabilities])
    context_window = models.PositiveIntegerField(null=True, blank=True)
    breaker_failures = models.PositiveSmallIntegerField(
        "failures that open", null=True, blank=True, help_text="Empty: the provider's."
    )
    breaker_rate = models.FloatField(
        "part of the calls",
        null=True,
        blank=True,
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)],
    )
    breaker_window_s = models.FloatField("window, s", null=True, blank=True)
    breaker_open_s = models.FloatField("open for, s", null=True, blank=True)
    measured_capabilities = models.JSONField(default=dict, blank=True, editable=False)
    measured_evidence = models.JSONField(default=dict, blank=True, editable=False)
    measured_at = models.DateTimeField(null=True, blank=True, editable=False)
    measured_upstream = models.CharField(max_length=64, blank=True, editable=False)
    history = HistoricalRecords()

    class Meta:
        ordering = ["provider__name", "model"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "model"], name="deployment_unique"),
            _breaker_constraint("deployment"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    def upstream(self, base_url: str) -> str:
        """What a measurement is of: this model at this address (the provider's, empty for its
        kind's own). Another server's abilities say nothing about this one."""
        place = "\n".join((self.provider.kind, base_url.rstrip("/"), self.model))
        return sha256(place.encode()).hexdigest()

    def measured_flags(self, base_url: str) -> dict[str, bool]:
        """What was measured, if it was at the upstream this row stands for now."""
        flags = self.measured_capabilities
        if not isinstance(flags, dict) or self.measured_upstream != self.upstream(base_url):
            return {}
        return flags

    def keep_measurement(
        self, flags: Mapping[str, bool], evidence: Mapping[str, str], upstream: str
    ) -> None:
        """Puts what was found out, unsaved, beside what was known of the same upstream."""
        now = timezone.now()
        same = upstream == self.measured_upstream and isinstance(self.measured_capabilities, dict)
        known, told = (self.measured_capabilities, self.measured_evidence) if same else ({}, {})
        dated = {name: f"{now:%Y-%m-%d}: {text}" for name, text in evidence.items()}
        self.measured_capabilities = {**known, **flags}
        self.measured_evidence = {**told, **dated}
        self.measured_at = now
        self.measured_upstream = upstream


def _price_field(verbose_name: str, **options: Any) -> models.DecimalField[Any, Any]:
    return models.DecimalField(
        verbose_name,
        max_digits=14,
        decimal_places=6,
        validators=[MinValueValidator(Decimal(0))],
        help_text="USD per million tokens.",
        **options,
    )


class Price(models.Model):
    """What a deployment's tokens cost from a date on, before any catalogue."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="prices")
    valid_from = models.DateTimeField()
    input = _price_field("input")
    output = _price_field("output")
    cached_input = _price_field("cached input", null=True, blank=True)
    cache_write = _price_field("cache write", null=True, blank=True)
    history = HistoricalRecords()

    class Meta:
        ordering = ["deployment", "-valid_from"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "valid_from"], name="price_unique"),
            models.CheckConstraint(
                condition=models.Q(input__gte=0) & models.Q(output__gte=0),
                name="price_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deployment} from {self.valid_from:%Y-%m-%d}"


class Strategy(models.TextChoices):
    FALLBACK = "fallback", "Fallback: in order, the next after a failure"


class Route(models.Model):
    """A public model name and its ordered targets."""

    name = models.CharField(max_length=100, unique=True, validators=[validate_name])
    strategy = models.CharField(max_length=16, choices=Strategy.choices, default=Strategy.FALLBACK)
    enabled = models.BooleanField(default=True)
    history = HistoricalRecords()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class RouteTarget(models.Model):
    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="targets")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="+")
    position = models.PositiveSmallIntegerField(default=0)
    history = HistoricalRecords()

    class Meta:
        ordering = ["route", "position"]
        constraints = [
            models.UniqueConstraint(fields=["route", "deployment"], name="route_target_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.route} → {self.deployment}"


class ConfigRevision(models.Model):
    """One row. Its number grows with every change of the configuration (see `revision`)."""

    revision = models.BigIntegerField(default=1)

    class Meta:
        verbose_name = "configuration revision"

    def __str__(self) -> str:
        return str(self.revision)
