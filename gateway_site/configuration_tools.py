"""The tools and MCP servers of a configuration, with their secrets.

A signing secret or a set of headers is given in the file, or by the name of a variable that is read
when the file is applied; where that is unset, and where a tool's entry says nothing of a secret,
what is stored stays. A tool that has no secret yet gets one made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from django.conf import settings
from django.core.exceptions import ValidationError

from gateway_site.configuration_file import ConfigurationError
from gateway_site.configuration_schema import (
    Configuration,
    RemoteEntry,
    ToolEntry,
    check_secret,
)
from gateway_site.configuration_secrets import read_secret, variables
from providers.outbound import OutboundPolicy, parse_url
from providers.secrets import SecretUnreadable
from tools_app.models import Kind, McpServer, Remote, Tool, make_signing_secret, validate_headers

_SECRET = "ABSTRACTCORE_TOOL_{}_SECRET"
_HEADERS = "ABSTRACTCORE_TOOL_{}_HEADERS"
_SERVER_HEADERS = "ABSTRACTCORE_MCP_{}_HEADERS"


def secret_variables(rows: Iterable[Tool]) -> dict[str, str]:
    """The variables an export refers to for signing secrets, by the tools' names."""
    return variables(_SECRET, (row.name for row in rows if row.signing_secret))


def header_variables(rows: Iterable[Tool] | Iterable[McpServer]) -> dict[str, str]:
    """The variables an export refers to for headers, by name."""
    kept = [row for row in rows if row.headers]
    pattern = _SERVER_HEADERS if any(isinstance(row, McpServer) for row in kept) else _HEADERS
    return variables(pattern, (row.name for row in kept))


def tool_problems(configuration: Configuration, *, prune: bool) -> Iterator[str]:
    """Names that are a tool's and a server's, and secrets of new rows that are missing."""
    tools = {entry.name for entry in configuration.tools}
    servers = {entry.name for entry in configuration.mcp_servers}
    known_tools = dict(Tool.objects.values_list("name", "pk"))
    known_servers = dict(McpServer.objects.values_list("name", "pk"))
    if not prune:
        tools |= known_tools.keys()
        servers |= known_servers.keys()
    for name in sorted(tools & servers):
        yield f"tools: {name} is the name of an MCP server too"
    for at, tool in enumerate(configuration.tools):
        yield from _problems(f"tools[{at}]", tool, is_new=tool.name not in known_tools)
    for at, server in enumerate(configuration.mcp_servers):
        is_new = server.name not in known_servers
        yield from _problems(f"mcp_servers[{at}]", server, is_new=is_new)


def _problems(place: str, entry: RemoteEntry, *, is_new: bool) -> Iterator[str]:
    for field in ("headers_env", "secret_env"):
        variable = getattr(entry, field, "")
        if variable and is_new and not read_secret(variable):
            yield f"{place}.{field}: {variable} is not set"


def address_notes(entries: Iterable[RemoteEntry]) -> Iterator[str]:
    """Addresses written as numbers that the outbound guard will refuse. Names are looked up when
    they are asked."""
    policy = OutboundPolicy.for_tools(settings.OUTBOUND_ALLOW)
    for entry in entries:
        if not entry.url:
            continue
        try:
            address = ip_address(parse_url(entry.url)[1])
        except ValueError:
            continue
        if not policy.permits(address):
            yield (
                f"{entry.name}: {address} is closed to tools; ABSTRACTCORE_OUTBOUND_ALLOW can "
                "open it"
            )


def settle_remote(row: Tool | McpServer, entry: RemoteEntry, notes: list[str]) -> list[str]:
    """Gives a row, unsaved, its headers and its secret; returns what that changed. Raises
    ConfigurationError."""
    differences = _settle_headers(row, entry, notes)
    if isinstance(row, Tool) and isinstance(entry, ToolEntry):
        differences += _settle_secret(row, entry, notes)
    return differences


def _settle_headers(row: Tool | McpServer, entry: RemoteEntry, notes: list[str]) -> list[str]:
    wanted = entry.headers
    if entry.headers_env:
        text = read_secret(entry.headers_env)
        if not text:
            notes.append(f"{entry.headers_env} is not set: {row} keeps its headers")
            return []
        wanted = _read_headers(entry.headers_env, text)
    if wanted == _stored_headers(row):
        return []
    row.set_headers(wanted)
    return ["headers changed" if wanted else "headers removed"]


def _stored_headers(row: Remote) -> dict[str, str] | None:
    try:
        return row.reveal_headers()
    except SecretUnreadable:
        return None


def _read_headers(variable: str, text: str) -> dict[str, str]:
    try:
        headers: dict[str, str] = json.loads(text)
        validate_headers(headers)
    except ValueError:
        raise ConfigurationError([f"{variable} must hold a JSON object of headers"]) from None
    except ValidationError as error:
        raise ConfigurationError([f"{variable}: {' '.join(error.messages)}"]) from None
    return headers


def _settle_secret(row: Tool, entry: ToolEntry, notes: list[str]) -> list[str]:
    if entry.kind != Kind.HTTP:
        had_one, row.signing_secret = bool(row.signing_secret), ""
        return ["secret removed"] if had_one else []
    secret = entry.secret or (_read_signing_secret(entry.secret_env) if entry.secret_env else "")
    if not secret:
        if entry.secret_env:
            notes.append(f"{entry.secret_env} is not set: tool {row} keeps its secret")
        if row.signing_secret:
            return []
        secret = make_signing_secret()
    if secret == _stored_secret(row):
        return []
    row.set_signing_secret(secret)
    return ["secret changed"]


def _read_signing_secret(variable: str) -> str:
    secret = read_secret(variable)
    try:
        return check_secret(secret) if secret else ""
    except ValueError as error:
        raise ConfigurationError([f"the value of {variable} {error}"]) from None


def _stored_secret(row: Tool) -> str | None:
    try:
        return row.reveal_signing_secret()
    except SecretUnreadable:
        return None
