"""What operators register: tools, and MCP servers that bring tools of their own."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from simple_history.models import HistoricalRecords

from chat.errors import InvalidRequest, UpstreamUnreachable
from providers.emulation.schema import AnswerSchema
from providers.outbound import parse_url
from providers.secrets import EncryptedTextField, decrypt, encrypt

MAX_URL = 500
MAX_TIMEOUT_S = 600.0
MAX_HEADERS = 32
MIN_SECRET_LENGTH = 20

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,4096}")
_OWN_HEADERS = frozenset(
    ["accept-encoding", "connection", "content-encoding", "content-length", "content-type"]
    + ["expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"]
)


def is_tool_name(name: str) -> bool:
    """Whether every wire can call a tool by this name: OpenAI's rule, the strictest."""
    return _NAME.fullmatch(name) is not None


def validate_tool_name(value: str) -> None:
    if not is_tool_name(value):
        raise ValidationError("Use 1 to 64 letters, digits, underscores and hyphens.")
    if value == "register":
        raise ValidationError("This name is an address of the API.")


def validate_parameters(value: Any) -> None:
    """A JSON Schema (2020-12, or what its `$schema` names) of an object."""
    if not isinstance(value, dict) or value.get("type") != "object":
        raise ValidationError('Use a JSON Schema whose "type" is "object".')
    try:
        AnswerSchema(value, param="parameters")
    except InvalidRequest as error:
        raise ValidationError(error.message) from None


def validate_tool_url(value: str) -> None:
    try:
        parse_url(value)
    except UpstreamUnreachable:
        raise ValidationError("Use a plain http:// or https:// URL without a user in it.") from None


def validate_headers(value: Any) -> None:
    """Names and values as HTTP takes them. The text of the error holds no value."""
    if not isinstance(value, dict) or len(value) > MAX_HEADERS:
        raise ValidationError(f"Use an object of at most {MAX_HEADERS} headers.")
    if len({name.lower() for name in value}) < len(value):
        raise ValidationError("A header stands twice: capitals make no difference.")
    for name, text in value.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValidationError("A header's name must be a plain word.")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("x-gateway-"):
            raise ValidationError(f"The header {name} is the gateway's own.")
        if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
            raise ValidationError(f"The value of {name} must be a line of printable ASCII.")


def any_object() -> dict[str, Any]:
    """The parameters of a tool that says nothing about them."""
    return {"type": "object", "properties": {}}


def make_signing_secret() -> str:
    """A new secret: `gws-` and 43 url-safe characters, 256 random bits."""
    return f"gws-{secrets.token_urlsafe(32)}"


class Kind(models.TextChoices):
    CLIENT = "client", "Client: run by the caller"
    HTTP = "http", "HTTP: run by the gateway"
    MCP = "mcp", "MCP: a tool of an MCP server"


class Remote(models.Model):
    """What is asked over HTTP, perhaps with headers that hold a credential."""

    headers = EncryptedTextField(blank=True, editable=False)
    timeout_s = models.FloatField("timeout, s", default=30.0)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """Stores headers encrypted; none removes them."""
        self.headers = encrypt(json.dumps(dict(sorted(headers.items())))) if headers else ""

    def reveal_headers(self) -> dict[str, str]:
        """Raises SecretUnreadable."""
        headers: dict[str, str] = json.loads(decrypt(self.headers) or "{}")
        return headers


def _timeout_bounded(name: str) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=models.Q(timeout_s__gt=0, timeout_s__lte=MAX_TIMEOUT_S),
        name=name,
        violation_error_message=f"A timeout is more than 0 and at most {MAX_TIMEOUT_S:g} seconds.",
    )


class Tool(Remote):
    """A tool by name: a definition, and for some kinds where it is run."""

    name = models.CharField(max_length=64, unique=True, validators=[validate_tool_name])
    description = models.TextField(blank=True)
    parameters = models.JSONField(default=any_object, validators=[validate_parameters])
    kind = models.CharField(max_length=8, choices=Kind.choices)
    url = models.CharField(
        "URL",
        max_length=MAX_URL,
        blank=True,
        validators=[validate_tool_url],
        help_text="Where the tool is run. Empty for a client tool.",
    )
    signing_secret = EncryptedTextField(blank=True, editable=False)
    history = HistoricalRecords(excluded_fields=["headers", "signing_secret"])

    class Meta:
        ordering = ["name"]
        constraints = [
            _timeout_bounded("tool_timeout_bounded"),
            models.CheckConstraint(
                condition=models.Q(kind=Kind.CLIENT, url="")
                | models.Q(kind__in=[Kind.HTTP, Kind.MCP]) & ~models.Q(url=""),
                name="tool_url_by_kind",
                violation_error_message="Tools of the kinds http and mcp need a URL; "
                "client tools have none.",
            ),
            models.CheckConstraint(
                # An empty secret would sign for everybody (CVE-2026-41432).
                condition=~models.Q(kind=Kind.HTTP) | ~models.Q(signing_secret=""),
                name="tool_http_signed",
                violation_error_message="A tool of the kind http needs a signing secret.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def set_signing_secret(self, secret: str) -> None:
        self.signing_secret = encrypt(secret)

    def reveal_signing_secret(self) -> str:
        """Raises SecretUnreadable."""
        return decrypt(self.signing_secret)


class McpServer(Remote):
    """An MCP server (streamable HTTP): its tools are offered by their own names."""

    name = models.CharField(max_length=64, unique=True, validators=[validate_tool_name])
    url = models.CharField("URL", max_length=MAX_URL, validators=[validate_tool_url])
    history = HistoricalRecords(excluded_fields=["headers"])

    class Meta:
        ordering = ["name"]
        verbose_name = "MCP server"
        constraints = [
            _timeout_bounded("mcpserver_timeout_bounded"),
            models.CheckConstraint(condition=~models.Q(url=""), name="mcpserver_url_given"),
        ]

    def __str__(self) -> str:
        return self.name
