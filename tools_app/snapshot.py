"""The registered tools in memory: what requests read instead of the database."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from providers.secrets import SecretUnreadable
from providers.snapshot import read_revision
from tools_app.models import McpServer, Remote, Tool

logger = logging.getLogger(__name__)

UNREADABLE = "its stored secrets were encrypted under another secret key"


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """A tool as requests see it. `problem` says why it cannot be run, if it cannot."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    kind: str
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 30.0
    signing_secret: str = field(default="", repr=False)
    problem: str | None = None
    server: str | None = None
    """The MCP server that brought it."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """An MCP server as requests see it."""

    name: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ToolSnapshot:
    """What is registered and enabled, each in the order of names."""

    revision: int
    tools: Mapping[str, ToolFacts]
    servers: Mapping[str, ServerFacts]


EMPTY = ToolSnapshot(revision=0, tools={}, servers={})
_current = EMPTY


def current() -> ToolSnapshot:
    """The snapshot in force in this process."""
    return _current


def install(snapshot: ToolSnapshot) -> None:
    global _current
    _current = snapshot


def refresh() -> bool:
    """Loads the tools when the configuration's revision is another than ours. Raises
    DatabaseError; returns whether anything changed."""
    if read_revision() == _current.revision:
        return False
    install(load())
    return True


def load() -> ToolSnapshot:
    """Reads everything in one transaction. Raises DatabaseError."""
    with transaction.atomic():
        revision = read_revision()
        tools = list(Tool.objects.filter(enabled=True).order_by("name"))
        servers = list(McpServer.objects.filter(enabled=True).order_by("name"))
    return ToolSnapshot(
        revision,
        {row.name: tool_facts(row) for row in tools},
        {row.name: server_facts(row) for row in servers},
    )


def tool_facts(row: Tool) -> ToolFacts:
    """A tool's row with its secrets as they are in force now."""
    headers, problem = _headers(row)
    secret = ""
    try:
        secret = row.reveal_signing_secret()
    except SecretUnreadable:
        problem = UNREADABLE
    return ToolFacts(
        name=row.name,
        description=row.description,
        parameters=row.parameters,
        kind=row.kind,
        url=row.url,
        headers=headers,
        timeout_s=row.timeout_s,
        signing_secret=secret,
        problem=problem,
    )


def server_facts(row: McpServer) -> ServerFacts:
    headers, problem = _headers(row)
    return ServerFacts(row.name, row.url, headers, row.timeout_s, problem)


def _headers(row: Remote) -> tuple[dict[str, str], str | None]:
    try:
        return row.reveal_headers(), None
    except SecretUnreadable:
        return {}, UNREADABLE
