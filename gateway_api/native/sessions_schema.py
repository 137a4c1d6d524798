"""`/v1/sessions` as OpenAPI describes it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter

from gateway_api.openai.schema import ERROR_RESPONSES
from gateway_api.schemas import only
from sessions_app.session_rows import Truncation

TAG = ["Sessions"]
_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}
_COUNT = {"type": "integer"}
_ERRORS = only(ERROR_RESPONSES, 400, 401, 404, 413, 415, 503)

_SETTINGS: dict[str, Any] = {
    "provider": {"type": ["string", "null"]},
    "model": {"type": ["string", "null"], "description": "Null: the gateway's default."},
    "system_prompt": _TEXT,
    "temperature": {"type": "number"},
    "max_tokens": _COUNT,
    "tools": {"type": "array", "items": {}},
    "tool_execution": {"type": "string", "enum": ["client", "server"]},
    "truncation": {"type": "string", "enum": list(Truncation.values)},
    "metadata": _OBJECT,
}
_SESSION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "object": {"const": "session"},
        **_SETTINGS,
        "created_at": {"type": "string", "format": "date-time"},
        "updated_at": {"type": "string", "format": "date-time"},
        "message_count": _COUNT,
        "total_tokens": _COUNT,
        "total_cost": {"type": "string", "description": "USD, as a decimal, of priced requests."},
        "unpriced_requests": {**_COUNT, "description": "Requests that are not in `total_cost`."},
    },
}
_PAGED: dict[str, Any] = {
    "has_more": {"type": "boolean"},
    "next_cursor": {"type": ["string", "null"]},
}
_WITH_MESSAGES = {
    "type": "object",
    "properties": {
        **_SESSION["properties"],
        "messages": {"type": "array", "items": _OBJECT},
        **_PAGED,
    },
}
_LIST = {
    "type": "object",
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": _SESSION},
        **_PAGED,
    },
}


def _json(status: int, content: dict[str, Any]) -> dict[Any, Any]:
    return {(status, "application/json"): content, **_ERRORS}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"type": "object", "properties": properties}}


NEW_REQUEST = _body({"id": {**_TEXT, "description": "The caller's own id."}, **_SETTINGS})
NEW_RESPONSES = _json(201, _SESSION)
LIST_RESPONSES = _json(200, _LIST)
GET_RESPONSES = _json(200, _WITH_MESSAGES)
CHANGE_REQUEST = _body(_SETTINGS)
CHANGE_RESPONSES = _json(200, _SESSION)
DELETE_RESPONSES = _json(
    200,
    {"type": "object", "properties": {"status": {"const": "deleted"}, "session_id": _TEXT}},
)
FORK_REQUEST = _body({"at": {**_TEXT, "description": "The last message to take along, by its id."}})
COMPACT_REQUEST = _body({"model": {**_TEXT, "description": "Default: the session's."}})
COMPACT_RESPONSES = _json(
    200,
    {
        "type": "object",
        "properties": {
            "status": {"const": "compacted"},
            "compacted_messages": _COUNT,
            **_SESSION["properties"],
        },
    },
)
EXPORT_RESPONSES = _json(200, _OBJECT)
IMPORT_REQUEST = {"application/json": _OBJECT}

_LIMIT = OpenApiParameter("limit", int, description="1 to 1000; 100.")
LIST_PARAMETERS = [
    _LIMIT,
    OpenApiParameter("after", str, description="The `next_cursor` of the page before."),
    OpenApiParameter(
        "metadata[project]", str, description="Only sessions whose metadata has this value."
    ),
]
PAGE_PARAMETERS = [
    _LIMIT,
    OpenApiParameter("after", str, description="The id of the last message seen."),
    OpenApiParameter(
        "include", str, enum=["compacted"], description="Also messages a summary stands for."
    ),
]
