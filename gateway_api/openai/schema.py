"""OpenAPI schemas of the OpenAI wire, read off the types that validate it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse

from chat.requests import ChatParams, EmbeddingsParams
from chat.text_completions import TextParams
from gateway_api.schemas import error_responses, only, request_body

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
CHAT_REQUEST = request_body(ChatParams)
_COMPLETION: dict[str, Any] = {
    "type": "object",
    "description": "OpenAI's chat completion object.",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"type": ["object", "null"]},
        "tool_messages": {
            "type": "array",
            "items": {"type": "object"},
            "description": "With `tool_execution: server`: the calls that the gateway ran, and "
            "what the tools said, as messages that belong before the answer.",
        },
    },
}
ERROR_RESPONSES = error_responses(ERROR)
NOT_IN_FORMAT = {
    (422, "application/json"): OpenApiResponse(
        {
            "type": "object",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        **ERROR["properties"]["error"]["properties"],
                        "validation_errors": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "path": {"type": "string"},
                                    "message": {"type": "string"},
                                },
                            },
                        },
                        "last_text": {"type": "string"},
                    },
                }
            },
        },
        description="The answer did not come in the format that was asked for, or without the "
        "call that was demanded; with `code: structured_output_invalid` the reasons and the last "
        "text are told.",
    )
}
CHAT_RESPONSES = {
    (200, "application/json"): OpenApiResponse(_COMPLETION, description="The whole answer."),
    (200, "text/event-stream"): OpenApiResponse(
        OpenApiTypes.STR,
        description="With `stream: true`: chunks as server-sent events, then `[DONE]`.",
        examples=[OpenApiExample("chunk", value='data: {"choices":[…]}')],
    ),
    **ERROR_RESPONSES,
    **NOT_IN_FORMAT,
}
TEXT_REQUEST = request_body(TextParams)
TEXT_RESPONSES = {
    **CHAT_RESPONSES,
    (200, "application/json"): OpenApiResponse(
        {
            **_COMPLETION,
            "description": "OpenAI's text completion object.",
            "properties": {**_COMPLETION["properties"], "object": {"const": "text_completion"}},
        },
        description="The whole answer.",
    ),
}
EMBEDDINGS_REQUEST = request_body(EmbeddingsParams)
EMBEDDINGS_RESPONSES = {
    (200, "application/json"): OpenApiResponse(
        {
            "type": "object",
            "properties": {
                "object": {"const": "list"},
                "data": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "object": {"const": "embedding"},
                            "index": {"type": "integer"},
                            "embedding": {
                                "oneOf": [
                                    {"type": "array", "items": {"type": "number"}},
                                    {"type": "string", "description": "Base64 of 32-bit floats."},
                                ]
                            },
                        },
                    },
                },
                "model": {"type": "string"},
                "usage": {"type": "object"},
            },
        },
        description="A vector for each input, in order.",
    ),
    **ERROR_RESPONSES,
    (501, "application/json"): OpenApiResponse(ERROR, description="The model has no embeddings."),
}
_MODEL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "capabilities": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "context_window": {"type": ["integer", "null"]},
        "pricing": {"type": ["object", "null"]},
    },
}
MODEL_RESPONSES = {
    (200, "application/json"): OpenApiResponse(_MODEL, description="One model."),
    **only(ERROR_RESPONSES, 400, 401, 404),
}
MODELS_RESPONSES = {
    (200, "application/json"): OpenApiResponse(
        {
            "type": "object",
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": _MODEL},
            },
        },
        description="Every model and route this key may use.",
    ),
    **only(ERROR_RESPONSES, 400, 401),
}
