"""OpenAPI schemas of the Ollama wire, read off the types that validate it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse

from gateway_api.ollama.fields import (
    ChatFields,
    EmbeddingsFields,
    EmbedFields,
    GenerateFields,
    ShowFields,
)
from gateway_api.schemas import Responses, error_responses, only, request_body

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
ERROR_RESPONSES = error_responses(ERROR)


def _whole(description: str, properties: dict[str, Any]) -> Responses:
    schema = {"type": "object", "properties": properties}
    return {(200, "application/json"): OpenApiResponse(schema, description=description)}


_STRING, _INTEGER, _ARRAY = {"type": "string"}, {"type": "integer"}, {"type": "array", "items": {}}
_COUNTS = {
    "model": _STRING,
    "created_at": {"type": "string", "format": "date-time"},
    "done": {"type": "boolean"},
    "done_reason": _STRING,
    "total_duration": {"type": "integer", "description": "Nanoseconds."},
    "prompt_eval_count": _INTEGER,
    "eval_count": _INTEGER,
}
_STREAMED = {
    (200, "application/x-ndjson"): OpenApiResponse(
        OpenApiTypes.STR,
        description="Unless `stream` is false: JSON lines, the last with `done: true` and counts.",
        examples=[OpenApiExample("line", value='{"message":{…},"done":false}')],
    )
}
CHAT_REQUEST = request_body(ChatFields)
CHAT_RESPONSES = {
    **_whole("The whole answer.", {**_COUNTS, "message": {"type": "object"}}),
    **_STREAMED,
    **ERROR_RESPONSES,
}
GENERATE_REQUEST = request_body(GenerateFields)
GENERATE_RESPONSES = {
    **_whole("The whole answer.", {**_COUNTS, "response": _STRING}),
    **_STREAMED,
    **ERROR_RESPONSES,
}
EMBED_REQUEST = request_body(EmbedFields)
EMBED_RESPONSES = {
    **_whole("The vectors.", {"model": _STRING, "embeddings": _ARRAY}),
    **ERROR_RESPONSES,
}
EMBEDDINGS_REQUEST = request_body(EmbeddingsFields)
EMBEDDINGS_RESPONSES = {**_whole("The vector.", {"embedding": _ARRAY}), **ERROR_RESPONSES}
SHOW_REQUEST = request_body(ShowFields)
_LISTING_ERRORS = only(ERROR_RESPONSES, 401, 404)
SHOW_RESPONSES = {
    **_whole(
        "One model.",
        {"capabilities": _ARRAY, "details": {"type": "object"}, "model_info": {"type": "object"}},
    ),
    **ERROR_RESPONSES,
}
MODELS_RESPONSES = {**_whole("Models.", {"models": _ARRAY}), **_LISTING_ERRORS}
VERSION_RESPONSES = _whole("The API's version.", {"version": _STRING})
