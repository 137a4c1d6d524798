"""The configuration as a file: what `apply_config` would need to make it again.

Applied to the same database it changes nothing. Applied to an empty one, with the variables its
header names set, it makes an equal configuration, whose own export is the same to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import Model
from django.utils import timezone

from gateway_site.configuration import configuration_lock
from gateway_site.configuration_differences import LABELS, moment_text
from gateway_site.configuration_file import write_document
from gateway_site.configuration_schema import default
from gateway_site.configuration_secrets import (
    is_provider_variable,
    key_variables,
    provider_variables,
)
from gateway_site.configuration_tools import header_variables, secret_variables
from keys.models import VirtualKey
from providers.models import Deployment, Price, Provider, Route
from tools_app.models import McpServer, Tool
from usage.fields import usd_text

Row = TypeVar("Row", bound=Model)

_HEADER = """\
# The configuration of an AbstractCore Server. To make a database match it:
#     python manage.py apply_config FILE
"""
_VARIABLES = """\
# Secrets are not in it. A database that has them keeps them; for another one, set:
"""


def export() -> str:
    """YAML of the whole configuration in a fixed order. Raises DatabaseError."""
    with configuration_lock():
        document = {
            "providers": _providers(),
            "deployments": _deployments(),
            "routes": [_route(row) for row in _sorted(Route.objects.all())],
            "keys": _keys(),
            "tools": _tools(),
            "mcp_servers": _mcp_servers(),
        }
    return f"{_header(document)}\n{write_document(document)}"


def _header(document: Mapping[str, list[dict[str, Any]]]) -> str:
    variables = [
        entry["api_key_env"]
        for entry in document["providers"]
        if is_provider_variable(entry["name"], entry.get("api_key_env", ""))
    ] + [entry["secret_env"] for entry in document["keys"]]
    variables += [
        entry[field]
        for entry in (*document["tools"], *document["mcp_servers"])
        for field in ("secret_env", "headers_env")
        if field in entry
    ]
    return _HEADER + (_VARIABLES if variables else "") + "".join(f"#     {v}\n" for v in variables)


def _sorted(rows: Iterable[Row]) -> list[Row]:
    # Here, because databases order names each by a collation of their own.
    return sorted(rows, key=str)


def _fields(row: Model, *columns: str) -> dict[str, Any]:
    """What differs from the columns' defaults, by the file's names."""
    values = {column: getattr(row, column) for column in columns}
    return {
        LABELS.get(column, column): _plain(value)
        for column, value in values.items()
        if value != default(type(row), column)
    }


_TIMEOUTS = ("timeout_connect_s", "timeout_first_byte_s", "timeout_idle_s", "timeout_total_s")
_BREAKER = ("breaker_failures", "breaker_rate", "breaker_window_s", "breaker_open_s")


def _group(row: Model, name: str, *columns: str) -> dict[str, Any]:
    """Fields that stand together in the file, where any of them differs from its default."""
    fields = _fields(row, *columns)
    named = {label.removeprefix(f"{name}."): value for label, value in fields.items()}
    return {name: named} if named else {}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    # Postgres keeps an object's keys in an order of its own.
    return json.loads(json.dumps(value, sort_keys=True)) if isinstance(value, dict) else value


def _providers() -> list[dict[str, Any]]:
    rows = _sorted(Provider.objects.all())
    variables = provider_variables(row.name for row in rows if row.api_key)
    return [_provider(row, variables.get(row.name, row.api_key_env)) for row in rows]


def _provider(row: Provider, api_key_env: str) -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        **_fields(row, "enabled", "base_url", "base_url_env"),
        **({"api_key_env": api_key_env} if api_key_env else {}),
        **_group(row, "timeouts", *_TIMEOUTS),
        **_fields(row, "max_retries", "options"),
        **_group(row, "breaker", *_BREAKER),
    }


def _deployments() -> list[dict[str, Any]]:
    rows = Deployment.objects.select_related("provider").prefetch_related("prices")
    return [
        {
            "provider": row.provider.name,
            "model": row.model,
            **_fields(row, "enabled"),
            **_prices(sorted(row.prices.all(), key=lambda price: price.valid_from)),
            **_fields(row, "capabilities", "context_window"),
            **_group(row, "breaker", *_BREAKER),
        }
        for row in sorted(rows, key=lambda row: (row.provider.name, row.model))
    ]


def _prices(rows: list[Price]) -> dict[str, Any]:
    """`price` where one is in force and no other was or will be, else `prices` with their dates."""
    entries = [_fields(row, "input", "output", "cached_input", "cache_write") for row in rows]
    if len(rows) == 1 and rows[0].valid_from <= timezone.now():
        return {"price": entries[0]}
    dated = [
        {"valid_from": moment_text(row.valid_from), **entry}
        for row, entry in zip(rows, entries, strict=True)
    ]
    return {"prices": dated} if dated else {}


def _route(row: Route) -> dict[str, Any]:
    targets = row.targets.select_related("deployment__provider").order_by("position", "pk")
    return {
        "name": row.name,
        **_fields(row, "strategy", "enabled"),
        "targets": [
            {"provider": target.deployment.provider.name, "model": target.deployment.model}
            for target in targets
        ],
    }


def _keys() -> list[dict[str, Any]]:
    rows = _sorted(VirtualKey.objects.all())
    variables = key_variables(row.name for row in rows)
    return [{"name": row.name, "secret_env": variables[row.name], **_key(row)} for row in rows]


def _key(row: VirtualKey) -> dict[str, Any]:
    fields = _fields(row, "enabled", "admin", "allowed_models", "allowed_tools")
    fields |= _fields(row, "rpm", "tpm", "max_parallel")
    if row.budget_usd is not None:
        fields["budget_usd"] = usd_text(row.budget_usd)
    return fields | _fields(row, "budget_period", "expires_at")


def _tools() -> list[dict[str, Any]]:
    rows = _sorted(Tool.objects.all())
    secrets, headers = secret_variables(rows), header_variables(rows)
    return [
        {
            "name": row.name,
            "kind": row.kind,
            **_fields(row, "description", "parameters", "url"),
            **({"secret_env": secrets[row.name]} if row.name in secrets else {}),
            **({"headers_env": headers[row.name]} if row.name in headers else {}),
            **_fields(row, "timeout_s", "enabled"),
        }
        for row in rows
    ]


def _mcp_servers() -> list[dict[str, Any]]:
    rows = _sorted(McpServer.objects.all())
    headers = header_variables(rows)
    return [
        {
            "name": row.name,
            "url": row.url,
            **({"headers_env": headers[row.name]} if row.name in headers else {}),
            **_fields(row, "timeout_s", "enabled"),
        }
        for row in rows
    ]
