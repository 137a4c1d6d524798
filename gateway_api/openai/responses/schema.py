"""OpenAPI schemas of the Responses API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

from gateway_api.openai.responses.params import ResponsesParams
from gateway_api.openai.schema import ERROR_RESPONSES
from gateway_api.schemas import only, request_body

REQUEST = request_body(ResponsesParams)
_RESPONSE = {
    "type": "object",
    "description": "OpenAI's Response object.",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "response"},
        "created_at": {"type": "integer"},
        "status": {
            "enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
        },
        "model": {"type": "string"},
        "output": {"type": "array", "items": {"type": "object"}},
        "error": {"type": ["object", "null"]},
        "incomplete_details": {"type": ["object", "null"]},
        "previous_response_id": {"type": ["string", "null"]},
        "usage": {"type": ["object", "null"]},
    },
}
_WHOLE = {(200, "application/json"): OpenApiResponse(_RESPONSE, description="The response.")}
_NOT_FOUND = only(ERROR_RESPONSES, 401, 404)
_REFUSED = only(ERROR_RESPONSES, 400, 413, 415)
CREATED = {
    **_WHOLE,
    (200, "text/event-stream"): OpenApiResponse(
        OpenApiTypes.STR,
        description="With `stream: true`: typed events with a `sequence_number`. With `background` "
        "too, the response goes on when its caller leaves.",
        examples=[OpenApiExample("event", value="event: response.created\ndata: {…}")],
    ),
    **ERROR_RESPONSES,
}
FOUND = {
    **_WHOLE,
    (200, "text/event-stream"): OpenApiResponse(
        OpenApiTypes.STR,
        description="With `?stream=true`, of a background response that was made with `stream`: "
        "its events, as they come and as they were.",
    ),
    **_NOT_FOUND,
    **_REFUSED,
}
CANCELLED = {**_WHOLE, **_NOT_FOUND, **_REFUSED}
DELETED = {
    (200, "application/json"): OpenApiResponse(
        {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "response"},
                "deleted": {"const": True},
            },
        },
        description="It is gone.",
    ),
    **_NOT_FOUND,
}
ITEMS = {
    (200, "application/json"): OpenApiResponse(
        {
            "type": "object",
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"type": "object"}},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
                "has_more": {"type": "boolean"},
            },
        },
        description="The items; of a response, those of its own request.",
    ),
    **_NOT_FOUND,
    **_REFUSED,
}
_CONVERSATION = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "conversation"},
        "created_at": {"type": "integer"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_ITEMS = {"type": "array", "items": {"type": "object"}, "maxItems": 20}
_METADATA = {
    "type": ["object", "null"],
    "additionalProperties": {"type": "string", "maxLength": 512},
    "maxProperties": 16,
}


def _body(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        fields["required"] = list(required)
    return {"application/json": fields}


CONVERSATION_REQUEST = _body({"items": _ITEMS, "metadata": _METADATA})
METADATA_REQUEST = _body({"metadata": _METADATA}, "metadata")
ITEMS_REQUEST = _body({"items": _ITEMS}, "items")
ITEM = {
    (200, "application/json"): OpenApiResponse(
        {"type": "object", "properties": {"id": {"type": "string"}, "type": {"type": "string"}}},
        description="The item.",
    ),
    **_NOT_FOUND,
}
CONVERSATION = {
    (200, "application/json"): OpenApiResponse(_CONVERSATION, description="The conversation."),
    **_NOT_FOUND,
    **_REFUSED,
}
CONVERSATION_DELETED = {
    (200, "application/json"): OpenApiResponse(
        {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "conversation.deleted"},
                "deleted": {"const": True},
            },
        },
        description="It is gone; its responses stay, each by itself.",
    ),
    **_NOT_FOUND,
}
STREAM_PARAMETERS = [
    OpenApiParameter("stream", bool, description="Its events instead of the response."),
    OpenApiParameter("starting_after", int, description="Only the events after this number."),
]
ITEM_PARAMETERS = [
    OpenApiParameter("limit", int, description="1 to 100; 20."),
    OpenApiParameter("order", str, description="Default: desc.", enum=("asc", "desc")),
    OpenApiParameter("after", str, description="The id of the last item of the page before."),
]
