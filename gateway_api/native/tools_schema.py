"""`/v1/tools` as OpenAPI describes it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse

from gateway_api.openai.schema import ERROR
from tools_app.models import MAX_TIMEOUT_S, Kind

TAG = ["Tools"]

_TEXT = {"type": "string"}
_NAME = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
_KIND = {"type": "string", "enum": list(Kind.values)}
_FIELDS: dict[str, Any] = {
    "name": _NAME,
    "description": _TEXT,
    "parameters": {
        "type": ["object", "null"],
        "description": "JSON Schema. Null for an MCP server as a whole.",
    },
    "kind": _KIND,
}
_FOR_ADMINS: dict[str, Any] = {
    "url": {**_TEXT, "description": "For administrators only."},
    "timeout": {"type": "number", "description": "Seconds. For administrators only."},
    "server": {"type": ["string", "null"], "description": "The MCP server that brought it."},
    "tools": {
        "type": "array",
        "items": _TEXT,
        "description": "Of an MCP server as a whole: the names of its tools.",
    },
    "error": {
        "type": ["string", "null"],
        "description": "Of an MCP server as a whole: why its tools cannot be listed.",
    },
}
TOOL = {"type": "object", "properties": {**_FIELDS, **_FOR_ADMINS}}
TOOLS = {
    "type": "object",
    "properties": {
        "tools": {"type": "array", "items": {"type": "object", "properties": _FIELDS}},
        "count": {"type": "integer"},
    },
}
DELETED = {
    "type": "object",
    "properties": {"status": {"const": "deleted"}, "name": _TEXT},
}
REGISTERED = {
    "type": "object",
    "properties": {
        "status": {"const": "registered"},
        "tool": TOOL,
        "signing_secret": {
            **_TEXT,
            "description": "Of an HTTP tool: what the calls are signed with. Told this once.",
        },
    },
}
REGISTRATION = {
    "application/json": {
        "type": "object",
        "required": ["name", "kind"],
        "additionalProperties": False,
        "properties": {
            "name": _NAME,
            "description": _TEXT,
            "parameters": {
                "type": "object",
                "description": "A JSON Schema (2020-12) of an object. Left out, with the kind "
                "`mcp`: the whole server.",
            },
            "kind": _KIND,
            "url": {**_TEXT, "description": "For the kinds `http` and `mcp`."},
            "headers": {
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "Sent with every call. Stored encrypted, never shown.",
            },
            "timeout": {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": MAX_TIMEOUT_S,
                "default": 30,
                "description": "Seconds for a whole call. `timeout_s` is the same.",
            },
        },
    }
}

_MEANINGS = {
    400: "The request is wrong; `param` says where.",
    401: "The key is missing, unknown, expired or revoked.",
    403: "The key is not an admin's.",
    404: "There is no such tool for this key.",
    409: "The name is taken, or belongs to an MCP server.",
    413: "The request is too large.",
    415: "The body does not call itself JSON.",
    503: "The gateway has not read its configuration yet.",
}


def errors(*statuses: int) -> dict[tuple[int, str], OpenApiResponse]:
    return {
        (status, "application/json"): OpenApiResponse(ERROR, description=_MEANINGS[status])
        for status in statuses
    }
