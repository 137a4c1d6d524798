"""OpenAPI schemas of the OpenAI wire, read off the types that validate it."""

from __future__ import annotations

from typing import Any

import msgspec
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse

from chat.requests import ChatParams, EmbeddingsParams
from chat.text_completions import TextParams


def inlined_schema(type_: type) -> dict[str, Any]:
    """A JSON Schema without references to elsewhere, as drf-spectacular takes raw schemas. A type
    within itself is any object there."""
    (schema,), components = msgspec.json.schema_components([type_], ref_template="{name}")
    inlined: dict[str, Any] = _inline(schema, components)
    return inlined


def _inline(node: Any, components: dict[str, Any], above: tuple[str, ...] = ()) -> Any:
    if isinstance(node, dict):
        name = node.get("$ref")
        if name in above:
            return {"type": "object"}
        if name is not None:
            return _inline(components[name], components, (*above, name))
        return {name: _inline(value, components, above) for name, value in node.items()}
    if isinstance(node, list):
        return [_inline(value, components, above) for value in node]
    return node


ERROR = {
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
CHAT_REQUEST = {"application/json": {**inlined_schema(ChatParams), "additionalProperties": True}}
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
    },
}
ERROR_RESPONSES = {
    (status, "application/json"): OpenApiResponse(ERROR, description=meaning)
    for status, meaning in (
        (400, "The request is wrong; `param` says where."),
        (401, "The key is missing, unknown, expired or revoked."),
        (404, "There is no such model for this key."),
        (413, "The request is too large."),
        (415, "The body does not call itself JSON."),
        (429, "A limit of the key, or the provider's; see `retry-after`."),
        (502, "The provider failed, or refused the gateway's credential."),
        (503, "The provider is overloaded, or the gateway cannot serve now."),
        (504, "The provider timed out."),
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
}
TEXT_REQUEST = {"application/json": {**inlined_schema(TextParams), "additionalProperties": True}}
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
EMBEDDINGS_REQUEST = {
    "application/json": {**inlined_schema(EmbeddingsParams), "additionalProperties": True}
}
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
    **{key: ERROR_RESPONSES[key] for key in ERROR_RESPONSES if key[0] in (400, 401, 404)},
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
    **{key: ERROR_RESPONSES[key] for key in ERROR_RESPONSES if key[0] in (400, 401)},
}
