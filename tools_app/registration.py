"""Tools and MCP servers registered and removed by name: a name is one or the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, transaction

from tools_app.models import (
    Kind,
    McpServer,
    Remote,
    Tool,
    any_object,
    make_signing_secret,
    validate_headers,
)


class NameTaken(Exception):
    """There is a tool or an MCP server of this name already, perhaps a disabled one."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What is to be registered. Of the kind `mcp`, without `parameters`, it is a whole server."""

    name: str
    kind: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float | None = None

    @property
    def is_server(self) -> bool:
        return self.kind == Kind.MCP and self.parameters is None


def register(wanted: Registration, *, by: str) -> tuple[Tool | McpServer, str | None]:
    """The new row, and for an HTTP tool the secret its calls are signed with. Raises
    ValidationError, by field, and NameTaken."""
    row = _server(wanted) if wanted.is_server else _tool(wanted)
    validate_headers(dict(wanted.headers))
    row.set_headers(wanted.headers)
    if wanted.timeout_s is not None:
        row.timeout_s = wanted.timeout_s
    secret = None
    if isinstance(row, Tool) and row.kind == Kind.HTTP:
        secret = make_signing_secret()
        row.set_signing_secret(secret)
    row.full_clean(validate_unique=False)
    if _is_taken(wanted.name):
        raise NameTaken
    _change(row, f"Registered by {by}.")
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        raise NameTaken from None
    return row, secret


def _is_taken(name: str) -> bool:
    return any(model.objects.filter(name=name).exists() for model in (Tool, McpServer))


def _tool(wanted: Registration) -> Tool:
    return Tool(
        name=wanted.name,
        kind=wanted.kind,
        description=wanted.description,
        parameters=wanted.parameters or any_object(),
        url=wanted.url,
    )


def _server(wanted: Registration) -> McpServer:
    return McpServer(name=wanted.name, url=wanted.url)


def remove(name: str, *, by: str) -> bool:
    """Deletes the tool or MCP server of this name; returns whether there was one."""
    for model in (Tool, McpServer):
        row: Tool | McpServer | None = model.objects.filter(name=name).first()
        if row is not None:
            _change(row, f"Deleted by {by}.")
            row.delete()
            return True
    return False


def _change(row: Remote, reason: str) -> None:
    row._change_reason = reason[:100]  # type: ignore[attr-defined]  # of its history
