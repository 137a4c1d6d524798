"""Values that an envelope writes as raw text, as what the tool's schema says they are."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

_MAX_STEPS = 16
"""References followed from one place: a schema may refer in circles."""


def typed(text: str, name: str, schema: Mapping[str, Any]) -> Any:
    """The value of the parameter `name` that is written `text`: text where the schema lets it be
    text, else what it says as JSON. What fits no type stays the text it is: the tool says so."""
    types = _declared(name, schema)
    if text.strip() == "null" and ("null" in types or not types):
        return None
    if "string" in types:
        return text
    value = _parsed(text)
    return value if not types or _fits(value, types) else text


def is_text(name: str, schema: Mapping[str, Any]) -> bool:
    """Whether the parameter can be nothing but text."""
    return _declared(name, schema) == {"string"}


def _declared(name: str, schema: Mapping[str, Any]) -> set[str]:
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return {kind for each in _alternatives(found, schema) for kind in _types(each)}


def _alternatives(found: Any, root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema with all that it may be instead."""
    waiting, steps = [found], 0
    while waiting and (steps := steps + 1) <= _MAX_STEPS:
        schema = waiting.pop()
        if not isinstance(schema, Mapping):
            continue
        yield schema
        for word in ("anyOf", "oneOf", "allOf"):
            options = schema.get(word)
            waiting += options if isinstance(options, list) else []
        if isinstance(reference := schema.get("$ref"), str):
            waiting.append(_referred(reference, root))


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    place: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        place = place.get(step) if isinstance(place, Mapping) else None
    return place


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    kind = schema.get("type")
    for each in kind if isinstance(kind, list) else [kind]:
        if isinstance(each, str):
            yield "string" if each == "str" else each
    if kind is None:
        options = schema.get("enum")
        values = options if isinstance(options, list) else [schema.get("const")]
        if any(isinstance(value, str) for value in values):
            yield "string"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, bool | dict | list | None) else text


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _fits(value: Any, types: set[str]) -> bool:
    match value:
        case bool():
            return "boolean" in types
        case int():
            return bool(types & {"integer", "number"})
        case float():
            return "number" in types or ("integer" in types and value.is_integer())
        case dict():
            return "object" in types
        case list():
            return "array" in types
        case None:
            return "null" in types
    return False
