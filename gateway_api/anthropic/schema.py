"""OpenAPI schemas of the Anthropic wire, read off the types that validate it."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse

from gateway_api.anthropic.shapes import MessagesParams, PromptParams
from gateway_api.schemas import error_responses, request_body

_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
_MESSAGE = {
    "type": "object",
    "description": "Anthropic's message object.",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": {"type": "string"},
        "content": {"type": "array", "items": {"type": "object"}},
        "stop_reason": {"type": ["string", "null"]},
        "stop_sequence": {"type": ["string", "null"]},
        "usage": {"type": "object"},
    },
}
_COUNT = {
    "type": "object",
    "required": ["input_tokens"],
    "properties": {"input_tokens": {"type": "integer"}},
}
_ERRORS = error_responses(_ERROR, wrong="The request is wrong; the message says where.")

MESSAGES_REQUEST = request_body(MessagesParams)
MESSAGES_RESPONSES = {
    (200, "application/json"): OpenApiResponse(_MESSAGE, description="The whole answer."),
    (200, "text/event-stream"): OpenApiResponse(
        OpenApiTypes.STR,
        description="With `stream: true`: Anthropic's events, from `message_start` to "
        "`message_stop`.",
        examples=[OpenApiExample("event", value="event: message_start\ndata: {…}")],
    ),
    **_ERRORS,
}
COUNT_REQUEST = request_body(PromptParams)
COUNT_RESPONSES = {
    (200, "application/json"): OpenApiResponse(
        _COUNT,
        description="The tokens of the prompt. Where the header `x-gateway-estimated: true` says "
        "that they are estimated: four bytes of text a token, 1,600 tokens an image, 32 bytes of a "
        "document a token and no less than an image, four tokens a message.",
    ),
    **_ERRORS,
}
