"""What `/v1/status` looks like in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from gateway_api.native.providers import STATUSES
from providers.breaker import State

_COUNT = {"type": "integer"}
_NUMBER = {"type": ["number", "null"]}
_TEXT = {"type": "string"}
_MOMENT = {"type": "string", "format": "date-time"}

_WORKER = {
    "type": "object",
    "required": ["id", "config_revision", "lag_ms"],
    "properties": {
        "id": _TEXT,
        "config_revision": _COUNT,
        "lag_ms": {
            **_COUNT,
            "description": "How long ago it last had the database's configuration; 0: it has it.",
        },
        **dict.fromkeys(("host", "version"), {**_TEXT, "description": "For admins."}),
        **dict.fromkeys(("started_at", "last_seen"), {**_MOMENT, "description": "For admins."}),
        **dict.fromkeys(
            ("pid", "in_flight", "queue_depth", "journal_bytes"),
            {**_COUNT, "description": "For admins."},
        ),
        "queue_behind_seconds": {"type": "number", "description": "For admins."},
    },
}
_BREAKER = {
    "type": "object",
    "description": "Of a deployment; ordinary keys are told the state.",
    "required": ["state"],
    "properties": {
        "state": {"type": "string", "enum": [state.value for state in State]},
        "failures": {**_COUNT, "description": "In the window. For admins."},
        "open_until": {"type": ["string", "null"], "format": "date-time"},
    },
}
STATUS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["healthy", "degraded"]},
        "version": _TEXT,
        "uptime_seconds": {**_COUNT, "description": "Of the oldest worker."},
        "total_requests": {**_COUNT, "description": "Since the ledger began."},
        "active_sessions": {**_COUNT, "description": "With a turn in the last hour."},
        "providers": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": _TEXT,
                    "status": {"type": "string", "enum": list(STATUSES)},
                    "models": {**_COUNT, "description": "How many this key may use."},
                },
            },
        },
        "circuit_breakers": {"type": "object", "additionalProperties": _BREAKER},
        "workers": {"type": "array", "items": _WORKER},
        "usage_queue_depth": {
            **_COUNT,
            "description": "Requests that ended and are not in the database yet.",
        },
        "latency_ms": {
            "type": "object",
            "description": "Of requests answered in the last five minutes; null: none.",
            "properties": {"p50": _NUMBER, "p95": _NUMBER, "p99": _NUMBER},
        },
        "cost_usd_today": {
            **_TEXT,
            "description": "US dollars of this UTC day: an ordinary key's own, an admin's of all.",
        },
    },
}
