"""A Pydantic model out of a JSON Schema.

`AnswerSchema` has judged the schema already and judges every answer; the model holds an answer to
the schema's structure once more, in Python's types. It is made of pydantic's core schema, because
classes know neither every name of a field nor every recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import RootModel
from pydantic_core import CoreSchema, core_schema

from chat.errors import InvalidRequest
from providers.emulation.equality import are_unique
from providers.emulation.formats import CHECKS
from providers.emulation.patterns import matches
from providers.emulation.schema import AnswerSchema
from providers.emulation.schema_parts import Part, subschemas

AnswerModel = RootModel[Any]

INEXPRESSIBLE = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "additionalItems",
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "maxProperties",
        "minContains",
        "minProperties",
        "not",
        "patternProperties",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Keywords that no type of Python's says."""
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_TYPED = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "format"),
        *("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
        *("properties", "required", "additionalProperties"),
    }
)
"""Keywords that say nothing of values of other types than their own."""
_BOUNDS = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
}
_ROOT = "#"


def answer_model(schema: AnswerSchema) -> type[AnswerModel]:
    """The model whose instances are the answers that fit. Raises InvalidRequest, naming the
    keyword, for a schema that no model expresses."""
    for part in subschemas(schema.schema, schema.param):
        _refuse_inexpressible(part)
    builder = _Builder(schema)

    class Answer(RootModel[Any]):
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
            root = core_schema.model_schema(cls, builder.root, root_model=True)
            return core_schema.definitions_schema(root, builder.definitions)

    return Answer


def _refuse_inexpressible(part: Part) -> None:
    path, schema = part.path, part.schema
    for name in sorted(INEXPRESSIBLE & schema.keys()):
        raise _refusal(f"{path}.{name}", f"`{name}`")
    if part.depth and "$id" in schema:
        raise _refusal(f"{path}.$id", "`$id` within a schema")
    if isinstance(schema.get("items"), list):
        raise _refusal(f"{path}.items", "`items` as a list")
    prefix = schema.get("prefixItems")
    if isinstance(prefix, list) and schema.get("minItems", 0) < len(prefix):
        raise _refusal(f"{path}.prefixItems", "`prefixItems` without as many `minItems`")


def _refusal(place: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"A response model cannot express {what}.", param=place, code="unsupported_value"
    )


class _Builder:
    """Turns a schema and all it refers to into pydantic's terms."""

    def __init__(self, schema: AnswerSchema) -> None:
        self._schema = schema
        self._definitions: dict[str, CoreSchema | None] = {}
        self.root = self._reference(_ROOT)

    @property
    def definitions(self) -> list[CoreSchema]:
        return [made for made in self._definitions.values() if made is not None]

    def _reference(self, pointer: str) -> CoreSchema:
        if pointer not in self._definitions:
            self._definitions[pointer] = None  # is being made: it may refer to itself
            made = self._type(self._found(pointer))
            made = core_schema.chain_schema([made], ref=pointer)
            self._definitions[pointer] = made
        return core_schema.definition_reference_schema(pointer)

    def _found(self, pointer: str) -> Any:
        found: Any = self._schema.schema
        for name in pointer.removeprefix(_ROOT).split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            found = found[int(name)] if isinstance(found, list) else found.get(name)
            if not isinstance(found, dict | list | bool):
                raise _refusal(f"{self._schema.param}.$ref", "this `$ref`")
        return found

    def _type(self, schema: Any) -> CoreSchema:
        """All that a schema says, one after the other."""
        if schema is True:
            return core_schema.any_schema()
        if schema is False:
            raise _refusal(self._schema.param, "the schema `false`")
        parts = [*self._said_elsewhere(schema), *self._values(schema), *self._typed(schema)]
        if not parts:
            return core_schema.any_schema()
        return parts[0] if len(parts) == 1 else core_schema.chain_schema(parts)

    def _said_elsewhere(self, schema: Mapping[str, Any]) -> list[CoreSchema]:
        parts = []
        if "$ref" in schema:
            pointer = schema["$ref"]
            if pointer != _ROOT and not pointer.startswith("#/"):
                raise _refusal(f"{self._schema.param}.$ref", "a `$ref` to a name")
            parts.append(self._reference(pointer))
        parts += [self._type(part) for part in schema.get("allOf", ())]
        for name in ("anyOf", "oneOf"):
            if name in schema:
                choices: list[Any] = [self._type(part) for part in schema[name]]
                parts.append(core_schema.union_schema(choices, mode="left_to_right"))
        return parts

    def _values(self, schema: Mapping[str, Any]) -> list[CoreSchema]:
        parts: list[CoreSchema] = []
        if "const" in schema:
            parts.append(_one_of([schema["const"]]))
        if "enum" in schema:
            parts.append(_one_of(schema["enum"]))
        return parts

    def _typed(self, schema: Mapping[str, Any]) -> list[CoreSchema]:
        types = schema.get("type")
        if types is None:
            if _TYPED.isdisjoint(schema):
                return []
            types = _TYPES
        names = [types] if isinstance(types, str) else list(types)
        made: list[Any] = [self._of_type(name, schema) for name in names]
        if len(made) == 1:
            return made
        return [core_schema.union_schema(made, mode="left_to_right")]

    def _of_type(self, name: str, schema: Mapping[str, Any]) -> CoreSchema:
        match name:
            case "null":
                return core_schema.none_schema()
            case "boolean":
                return core_schema.bool_schema(strict=True)
            case "integer":
                return _whole(schema)
            case "number":
                return _number(schema)
            case "string":
                return _string(schema)
            case "array":
                return self._array(schema)
        return self._object(schema)

    def _array(self, schema: Mapping[str, Any]) -> CoreSchema:
        items = self._type(schema.get("items", True)) if schema.get("items") is not False else None
        prefix = [self._type(part) for part in schema.get("prefixItems", ())]
        most = len(prefix) if items is None else schema.get("maxItems")
        if prefix:
            parts = [*prefix, *([items] if items is not None else [])]
            variadic = len(prefix) if items is not None else None
            made: CoreSchema = core_schema.tuple_schema(parts, variadic_item_index=variadic)
            made = core_schema.no_info_after_validator_function(list, made)
        else:
            made = core_schema.list_schema(items, strict=True)
        bounded = core_schema.list_schema(
            min_length=_size(schema.get("minItems")), max_length=_size(most)
        )
        checks: list[CoreSchema] = [made, bounded]
        if schema.get("uniqueItems") is True:
            checks.append(_check(_are_unique, "the items are not unique"))
        return core_schema.chain_schema(checks)

    def _object(self, schema: Mapping[str, Any]) -> CoreSchema:
        required = dict.fromkeys(schema.get("required", ()), True)
        named = {**required, **schema.get("properties", {})}
        fields = {
            name: core_schema.typed_dict_field(self._type(part), required=name in required)
            for name, part in named.items()
        }
        extra = schema.get("additionalProperties", True)
        if extra is False and not required.keys() <= set(schema.get("properties", ())):
            raise _refusal(f"{self._schema.param}.required", "what is required and not allowed")
        return core_schema.typed_dict_schema(
            fields,
            extra_behavior="forbid" if extra is False else "allow",
            extras_schema=self._type(extra) if isinstance(extra, dict) else None,
            strict=True,
        )


# --- values -------------------------------------------------------------------------------------


def _size(bound: Any) -> int | None:
    """Sizes may be written 2.0."""
    return None if bound is None else int(bound)


def _bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {ours: schema[name] for name, ours in _BOUNDS.items() if name in schema}


def _whole(schema: Mapping[str, Any]) -> CoreSchema:
    """JSON's integers: 1.0 is one."""
    number = core_schema.chain_schema([core_schema.int_schema(strict=True), _bounded(schema)])
    return core_schema.no_info_before_validator_function(_without_point, number)


def _without_point(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(schema: Mapping[str, Any]) -> CoreSchema:
    """Integers stay integers: a float has no room for those past 2^53."""
    kinds: list[Any] = [core_schema.int_schema(strict=True), core_schema.float_schema(strict=True)]
    kind = core_schema.union_schema(kinds, mode="left_to_right")
    return core_schema.chain_schema([kind, _bounded(schema)])


def _bounded(schema: Mapping[str, Any]) -> CoreSchema:
    bounds = _bounds(schema)
    tests: dict[str, Callable[[Any], bool]] = {
        "ge": lambda value: value >= bounds["ge"],
        "le": lambda value: value <= bounds["le"],
        "gt": lambda value: value > bounds["gt"],
        "lt": lambda value: value < bounds["lt"],
    }
    asked = [tests[name] for name in bounds]
    return _check(lambda value: all(test(value) for test in asked), "the number is out of bounds")


def _string(schema: Mapping[str, Any]) -> CoreSchema:
    parts: list[CoreSchema] = [
        core_schema.str_schema(
            strict=True,
            min_length=_size(schema.get("minLength")),
            max_length=_size(schema.get("maxLength")),
        )
    ]
    if "pattern" in schema:
        pattern = schema["pattern"]
        parts.append(_check(lambda text: matches(pattern, text), "the text does not match"))
    if (check := CHECKS.get(schema.get("format", ""))) is not None:
        parts.append(_check(check, f"the text is no {schema['format']}"))
    return core_schema.chain_schema(parts)


def _one_of(values: list[Any]) -> CoreSchema:
    return _check(
        lambda value: any(_are_equal(value, each) for each in values), "the value is not listed"
    )


def _check(holds: Callable[[Any], bool], otherwise: str) -> CoreSchema:
    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(otherwise)
        return value

    return core_schema.no_info_plain_validator_function(check)


def _are_equal(one: Any, other: Any) -> bool:
    """As JSON has it: 1 is 1.0 and not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _are_equal(one[name], other[name]) for name in one
        )
    return bool(one == other)


def _are_unique(items: list[Any]) -> bool:
    return are_unique(items, lambda _: None)
