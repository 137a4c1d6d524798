"""`output_config.format`: which schemas Anthropic's API holds a model to.

Its SDK (2.12.0, `lib/_parse/_transform.py`) leaves out, for the API to take a schema, every keyword
that is not named here, and closes every object; its documentation adds that schemas may not refer
to themselves. The rest is answered 400, and would mean something else if it were left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chat.errors import InvalidRequest
from chat.requests import ChatParams

_NOTES = frozenset({"$schema", "default", "description", "title"})
_FORMATS = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "uuid",
    }
)
_PRIMITIVE = (str, int, float, bool, type(None))
_DEFINITIONS = ("$defs", "definitions")


def wanted_schema(params: ChatParams) -> dict[str, Any] | None:
    """The schema of the answer, None where any text will do. Raises InvalidRequest for formats this
    API does not have."""
    wanted = params.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type != "json_schema":
        raise InvalidRequest(
            f"This model cannot be held to the format `{wanted.type[:64]}`.",
            param="response_format.type",
            code="unsupported_value",
        )
    schema = (wanted.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise InvalidRequest(
            "`response_format.json_schema.schema` must be a JSON Schema.",
            param="response_format.json_schema.schema",
            code="invalid_type",
        )
    return schema


def takes_format(params: ChatParams) -> bool:
    """Whether the API takes the schema that is asked for, if one is."""
    wanted = params.response_format
    if wanted is None or wanted.type != "json_schema":
        return True
    schema = (wanted.json_schema or {}).get("schema")
    return takes_schema(schema)


def takes_schema(schema: Any) -> bool:
    """Whether the API holds a model to this."""
    if not isinstance(schema, dict):
        return False
    return _takes(schema) and not _refers_to_itself(schema)


def _takes(schema: Any) -> bool:
    return isinstance(schema, dict) and all(
        name in _NOTES or _takes_keyword(name, value, schema) for name, value in schema.items()
    )


def _takes_keyword(name: str, value: Any, schema: Mapping[str, Any]) -> bool:
    if name == "type":
        return value != "object" or schema.get("additionalProperties") is False
    if name in ("properties", *_DEFINITIONS):
        return isinstance(value, dict) and all(map(_takes, value.values()))
    if name in ("anyOf", "allOf"):
        return isinstance(value, list) and all(map(_takes, value))
    if name == "items":
        return _takes(value)
    if name == "enum":
        return isinstance(value, list) and all(isinstance(each, _PRIMITIVE) for each in value)
    return _takes_plain(name, value)


def _takes_plain(name: str, value: Any) -> bool:
    match name:
        case "additionalProperties":
            return value is False
        case "const":
            return isinstance(value, _PRIMITIVE)
        case "format":
            return value in _FORMATS
        case "minItems":
            return value in (0, 1)
        case "$ref":
            return isinstance(value, str) and value.startswith("#/")
        case "required":
            return True
    return False


def _refers_to_itself(schema: dict[str, Any]) -> bool:
    definitions = {
        f"#/{holder}/{name}": part
        for holder in _DEFINITIONS
        for name, part in (schema.get(holder) or {}).items()
    }
    direct = {place: _references(part) for place, part in definitions.items()}
    return any(place in _reachable(place, direct) for place in direct)


def _reachable(start: str, direct: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = set(direct[start])
    while left:
        place = left.pop()
        found.add(place)
        left |= direct.get(place, set()) - found
    return found


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_references, node))
    if not isinstance(node, dict):
        return set()
    named = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return named.union(*map(_references, node.values()))
