"""What the OpenAPI schemas of all wires have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from drf_spectacular.utils import OpenApiResponse

Responses: TypeAlias = dict[tuple[int, str], OpenApiResponse]
"""By status and media type."""


def request_body(shape: type) -> dict[str, Any]:
    """A JSON body, read off the type that validates it; more fields may stand in it."""
    schema = {**_inlined_schema(shape), "additionalProperties": True}
    if "tools" in schema["properties"]:
        schema["properties"]["tools"] = _with_names(schema["properties"]["tools"])
    return {"application/json": schema}


_TOOL_NAMES: list[dict[str, Any]] = [
    {"type": "string", "description": "The name of a registered tool."},
    {
        "type": "object",
        "required": ["type", "name"],
        "properties": {"type": {"const": "gateway"}, "name": {"type": "string"}},
        "description": "The same.",
    },
]


def _with_names(tools: dict[str, Any]) -> dict[str, Any]:
    """Definitions of tools, or names (`named_tools`)."""
    forms = [
        {**form, "items": {"anyOf": [form["items"], *_TOOL_NAMES]}} if "items" in form else form
        for form in tools["anyOf"]
    ]
    return {**tools, "anyOf": forms}


def error_responses(
    schema: dict[str, Any], *, wrong: str = "The request is wrong; `param` says where."
) -> Responses:
    """What a request to a model may be answered with but an answer."""
    meanings = {
        400: wrong,
        401: "The key is missing, unknown, expired or revoked.",
        404: "There is no such model for this key.",
        413: "The request is too large.",
        415: "The body does not call itself JSON.",
        429: "A limit of the key, or the provider's; see `retry-after`.",
        502: "The provider failed, or refused the gateway's credential.",
        503: "The provider is overloaded, or the gateway cannot serve now.",
        504: "The provider timed out.",
    }
    return {
        (status, "application/json"): OpenApiResponse(schema, description=meaning)
        for status, meaning in meanings.items()
    }


def only(responses: Responses, *statuses: int) -> Responses:
    """Those of `responses` with one of these statuses."""
    return {key: told for key, told in responses.items() if key[0] in statuses}


def _inlined_schema(type_: type) -> dict[str, Any]:
    """A JSON Schema without references to elsewhere, as drf-spectacular takes raw schemas. A type
    within itself is any object there."""
    (schema,), components = msgspec.json.schema_components([type_], ref_template="{name}")
    inlined: dict[str, Any] = _inline(schema, components)
    return inlined


def _inline(node: Any, components: Mapping[str, Any], above: tuple[str, ...] = ()) -> Any:
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
