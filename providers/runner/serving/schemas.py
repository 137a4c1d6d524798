"""JSON schemas as callers write them, made fit for holding an answer to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from providers.runner.serving.errors import Refusal

MAX_SCHEMA_BYTES = 1_000_000

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_SINGLES = ("items", "additionalProperties")
_COMBINING = ("anyOf", "oneOf", "$ref")
_OPENING = {"additionalProperties", "patternProperties", "unevaluatedProperties"}
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")
_CHOSEN = {"enum", "const", "multipleOf"}
_EXACT = 2**53 - 1
"""RFC 8259, section 6. SmolLM2 gave an age of 120 digits, until it was cut off (2026-11-25)."""


def written(schema: dict[str, Any], *, param: str) -> str:
    """The schema as JSON. Raises Refusal where it is too large or too deep."""
    try:
        text = orjson.dumps(schema)
    except orjson.JSONEncodeError:
        raise Refusal("The schema is nested too deeply.", param=param) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise Refusal(f"The schema has more than {MAX_SCHEMA_BYTES} bytes.", param=param)
    return text.decode()


def narrowed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that only what fits `schema` fits, without what a small model finds no end in.

    Objects that name their properties hold no others, unless they say that they may; llama.cpp
    reads schemas so. Where schemas are combined that is left, as there one part would forbid what
    another adds. Whole numbers are such as every reader of JSON keeps exactly.
    """
    closing = not any(_is_combined(each) for each in _schemas(schema))
    return _narrowed(schema, closing=closing)


def _is_combined(schema: dict[str, Any]) -> bool:
    return "allOf" in schema or (
        "properties" in schema and any(name in schema for name in _COMBINING)
    )


def _schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema in `schema`, itself first."""
    found = [schema]

    def note(part: dict[str, Any]) -> dict[str, Any]:
        found.append(part)
        return part

    for each in found:
        yield each
        _with_parts(each, note)


def _narrowed(schema: dict[str, Any], *, closing: bool) -> dict[str, Any]:
    made = _with_parts(schema, lambda part: _narrowed(part, closing=closing))
    made |= _missing_bounds(made)
    if closing and "properties" in made and not made.keys() & _OPENING:
        made["additionalProperties"] = False
    return made


def _missing_bounds(schema: dict[str, Any]) -> dict[str, int]:
    """The bounds of a whole number that the schema leaves open."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "integer" not in kinds or "number" in kinds or schema.keys() & _CHOSEN:
        return {}
    given = [schema[name] for name in (*_LOWER, *_UPPER) if name in schema]
    if not all(isinstance(bound, int) and abs(bound) <= _EXACT for bound in given):
        return {}
    return {
        names[0]: bound
        for names, bound in ((_LOWER, -_EXACT), (_UPPER, _EXACT))
        if not schema.keys() & set(names)
    }


def _with_parts(
    schema: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """A copy whose parts that are schemas themselves are changed."""

    def changed(part: Any) -> Any:
        return change(part) if isinstance(part, dict) else part

    made = dict(schema)
    for name, value in schema.items():
        if name in _SINGLES:
            made[name] = changed(value)
        elif name in _LISTS and isinstance(value, list):
            made[name] = [changed(part) for part in value]
        elif name in _MAPS and isinstance(value, dict):
            made[name] = {key: changed(part) for key, part in value.items()}
    return made
