"""Rows compared with what they should hold, in the words of the configuration file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db.models import Model

from usage.fields import usd_text

LABELS = {
    "timeout_connect_s": "timeouts.connect",
    "timeout_first_byte_s": "timeouts.first_byte",
    "timeout_idle_s": "timeouts.idle",
    "timeout_total_s": "timeouts.total",
    "breaker_failures": "breaker.failures",
    "breaker_rate": "breaker.rate",
    "breaker_window_s": "breaker.window_s",
    "breaker_open_s": "breaker.open_s",
    "allowed_models": "models",
    "allowed_tools": "tools",
}
"""Fields of the file whose columns are called otherwise."""

_UNSHOWN = frozenset({"options", "parameters", "url"})
"""An adapter's options may hold a header with a credential, a tool's URL a token in its query; a
tool's parameters are long."""


def assign(row: Model, wanted: Mapping[str, Any]) -> list[str]:
    """Gives a row, unsaved, the values it should have; returns what that changed."""
    changed = {}
    for column, value in wanted.items():
        before = getattr(row, column)
        if not _same(before, value):
            changed[LABELS.get(column, column)] = (before, value)
            setattr(row, column, value)
    return [
        f"{label} changed" if label in _UNSHOWN else f"{label} {show(before)} -> {show(after)}"
        for label, (before, after) in _fold_timeouts(changed).items()
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict | list) and isinstance(other, dict | list):
        # Python takes true for 1; JSON does not.
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    return bool(one == other)


def _fold_timeouts(changed: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """`timeout_s` in place of the two timeouts it sets, where they changed alike."""
    first_byte, idle = changed.get("timeouts.first_byte"), changed.get("timeouts.idle")
    if first_byte is None or first_byte != idle:
        return changed
    folded = {"timeout_s": first_byte}
    return folded | {
        label: change
        for label, change in changed.items()
        if label not in ("timeouts.first_byte", "timeouts.idle")
    }


def show(value: Any) -> str:
    """A value as the file would say it, on one line."""
    if value is None or value == "":
        return "none"
    if isinstance(value, Decimal):
        return usd_text(value) or ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, tuple):
        return "/".join(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def moment_text(moment: datetime) -> str:
    """RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
