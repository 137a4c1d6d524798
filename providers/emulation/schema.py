"""A caller's JSON Schema: whether it is one, and whether an answer fits it.

The verdict is the `jsonschema` package's (2020-12, or the dialect `$schema` names). What callers
could make endless is bounded: the size and depth of a schema, the steps of a validation, and its
expressions, which run in linear time (`patterns`). Nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import orjson
from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import extend
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY, specification_with

from chat.errors import InvalidRequest
from providers.emulation.formats import FORMATS
from providers.emulation.pattern_weight import weigh_pattern
from providers.emulation.patterns import MAX_WEIGHT, PatternRefused, compile_pattern, matches

MAX_BYTES = 100_000
"""The check against the meta-schema takes 4 us a byte (measured with 33 and 135 kB)."""
_REMEMBERED_BYTES = 16_000
MAX_DEPTH = 64
MAX_STEPS = 100_000
"""Keywords looked at in one validation, weighed by the size of what they hold, at 6 us each. An
answer of 4,000 objects with ten fields is below it."""
_CHARACTERS_PER_STEP = 2000
"""For an expression of weight 1."""
_CHOICE_WEIGHT = 4
"""Of each branch of a choice: errors are collected in all of them."""
MAX_PROBLEMS = 10
_MAX_MESSAGE = 300

_DIALECTS: dict[str, Any] = {
    "https://json-schema.org/draft/2020-12/schema": Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "http://json-schema.org/draft-07/schema": Draft7Validator,
}
_NEWEST = "https://json-schema.org/draft/2020-12/schema"

HOLDS_ONE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
HOLDS_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
HOLDS_NAMED = frozenset(
    {
        "$defs",
        "definitions",
        "dependencies",
        "dependentSchemas",
        "patternProperties",
        "properties",
    }
)
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Problem(NamedTuple):
    """Why an answer does not fit: where in it, which of the schema's rules says so, and a sentence.
    Only the rule holds nothing of the answer."""

    path: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class AnswerSchema:
    """A schema that answers are held to. Raises InvalidRequest, naming the place after `param`, for
    what is no valid schema or asks too much."""

    def __init__(self, schema: dict[str, Any], *, param: str) -> None:
        self.schema = schema
        self.param = param
        self.text = _written(schema, param)
        dialect = _dialect(schema, param)
        _check_parts(schema, param)
        _check_shape(schema, dialect, param)
        self._validator = _bounded(dialect)(schema, registry=EMPTY_REGISTRY, format_checker=FORMATS)
        _check_references(schema, param)
        self.problems(None)  # what refers to itself in place is found out now

    @property
    def is_object(self) -> bool:
        """Whether the schema itself says that answers are objects."""
        return self.schema.get("type") == "object"

    def problems(self, value: Any) -> list[Problem]:
        """Why a value does not fit, the first few reasons; empty where it does. Raises
        InvalidRequest for a schema that takes too long or never ends."""
        budget = _budget.set(_Budget())
        try:
            errors = self._validator.iter_errors(value)
            return [_problem(error) for error in islice(errors, MAX_PROBLEMS)]
        except RecursionError:
            raise _refused(self.param, "refers to itself without an end") from None
        except _TooCostly:
            raise _refused(self.param, "takes too many steps to check an answer by") from None
        except Unresolvable as error:
            raise _unresolved(self.param, str(error.ref)) from None
        except OverflowError:  # 1e999 is a number in JSON
            return [Problem("$", "type", "a number is too large")]
        finally:
            _budget.reset(budget)


def schema_of(schema: dict[str, Any], *, param: str) -> AnswerSchema:
    """`AnswerSchema`, remembered where it is small: callers send the same with every request."""
    text = _written(schema, param)
    if len(text) > _REMEMBERED_BYTES:
        return AnswerSchema(schema, param=param)
    return _remembered(text, param)


@lru_cache(maxsize=256)
def _remembered(text: str, param: str) -> AnswerSchema:
    return AnswerSchema(orjson.loads(text), param=param)


class Part(NamedTuple):
    """A schema within a schema, where it stands and how deep."""

    path: str
    schema: dict[str, Any]
    depth: int = 0


def subschemas(schema: Any, path: str = "") -> Iterator[Part]:
    """Every schema within one that is an object, itself first."""
    left = [Part(path, schema)]
    while left:
        part = left.pop()
        if not isinstance(part.schema, dict):
            continue
        yield part
        for name, value in part.schema.items():
            left += [
                Part(f"{part.path}.{name}{place}", inner, part.depth + 1)
                for place, inner in _parts(name, value)
            ]


def _parts(name: str, value: Any) -> list[tuple[str, Any]]:
    if name in HOLDS_NAMED and isinstance(value, dict):
        return [(f".{key}", part) for key, part in value.items()]
    if name in HOLDS_SEVERAL and isinstance(value, list):
        return [(f"[{at}]", part) for at, part in enumerate(value)]
    return [("", value)] if name in HOLDS_ONE else []


# --- what is no schema of ours ------------------------------------------------------------------


def _refused(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"The schema in '{param}' {why}.", param=param, code="invalid_schema")


def _unresolved(param: str, reference: str) -> InvalidRequest:
    return _refused(
        param,
        f"refers to {reference[:200]!r}, which is not within it; nothing is fetched from elsewhere",
    )


def _written(schema: dict[str, Any], param: str) -> str:
    try:
        text = orjson.dumps(schema)
    except TypeError:
        raise _refused(param, "is nested too deeply") from None
    if len(text) > MAX_BYTES:
        raise _refused(param, f"is larger than {MAX_BYTES:,} bytes")
    return text.decode()


def _dialect(schema: dict[str, Any], param: str) -> Any:
    named = schema.get("$schema", _NEWEST)
    found = _DIALECTS.get(named.removesuffix("#")) if isinstance(named, str) else None
    if found is None:
        raise _refused(f"{param}.$schema", f"must be one of {', '.join(_DIALECTS)}")
    return found


def _check_parts(schema: dict[str, Any], param: str) -> None:
    parts = list(subschemas(schema, param))
    if any(part.depth > MAX_DEPTH for part in parts):
        raise _refused(param, "is nested too deeply")
    patterns = [found for part in parts for found in _patterns(part)]
    named = [place for place, _ in patterns if place.endswith(".patternProperties")]
    if named and any("unevaluatedProperties" in part.schema for part in parts):
        # The package asks Python's engine there, which can be made to take forever.
        raise _refused(named[0], "cannot stand beside `unevaluatedProperties`")
    if len(patterns) > 1 and sum(weigh_pattern(each) for _, each in patterns) > MAX_WEIGHT:
        raise _refused(param, "has too many expressions, or too large ones")
    for place, pattern in patterns:
        _check_pattern(pattern, place)


def _patterns(part: Part) -> list[tuple[str, str]]:
    """Its expressions and where they stand."""
    found = []
    if isinstance(part.schema.get("pattern"), str):
        found.append((f"{part.path}.pattern", part.schema["pattern"]))
    named = part.schema.get("patternProperties")
    if isinstance(named, dict):
        found += [(f"{part.path}.patternProperties", pattern) for pattern in named]
    return found


def _check_pattern(pattern: str, place: str) -> None:
    try:
        compile_pattern(pattern)
    except PatternRefused as error:
        raise _refused(place, f"holds the expression {pattern[:100]!r}, which is {error}") from None


def _check_shape(schema: dict[str, Any], dialect: Any, param: str) -> None:
    try:
        dialect.check_schema(schema)
    except SchemaError as error:
        place = error.json_path.removeprefix("$")
        raise InvalidRequest(
            f"The schema in '{param}' is not valid: {_cut(error.message)}.",
            param=f"{param}{place}",
            code="invalid_schema",
        ) from None
    except RecursionError:
        raise _refused(param, "is nested too deeply") from None


def _check_references(schema: dict[str, Any], param: str) -> None:
    parts = list(subschemas(schema, param))
    if any("$id" in part.schema for part in parts):
        return  # then a reference depends on where it stands: it is looked up when it is met
    specification = specification_with(schema.get("$schema", _NEWEST))
    resolver = EMPTY_REGISTRY.resolver_with_root(specification.create_resource(schema))
    for part in parts:
        for name in _REFERENCES:
            reference = part.schema.get(name)
            if not isinstance(reference, str):
                continue
            try:
                resolver.lookup(reference)
            except (Unresolvable, ValueError):
                raise _unresolved(f"{part.path}.{name}", reference) from None


# --- bounded validation -------------------------------------------------------------------------


class _TooCostly(Exception):
    """A validation took more steps than any honest one."""


class _Budget:
    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _TooCostly


_budget: ContextVar[_Budget] = ContextVar("schema_budget")
Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


@lru_cache(maxsize=len(_DIALECTS))
def _bounded(dialect: Any) -> Any:
    """The dialect with every keyword counted, and with linear expressions."""
    keywords = {**dialect.VALIDATORS, **_WITHOUT_RE}
    factors = dict.fromkeys(("anyOf", "oneOf"), _CHOICE_WEIGHT)
    return extend(
        dialect,
        {
            name: _counted(keyword, factor=factors.get(name, 1))
            for name, keyword in keywords.items()
        },
    )


def _counted(keyword: Keyword, *, factor: int) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        _budget.get().spend(_weight(value, instance) * factor)
        return keyword(validator, value, instance, schema)

    return check


def _weight(value: Any, instance: Any) -> int:
    steps = 1
    if isinstance(value, list | dict):
        steps += len(value)
    if isinstance(instance, list | dict):
        steps += len(instance) // 8
        if value is True and isinstance(instance, list) and _holds_containers(instance):
            steps += len(instance) ** 2 // 16  # `uniqueItems` compares each with each
    return steps


def _holds_containers(items: list[Any]) -> bool:
    return any(isinstance(item, list | dict) for item in items)


def _matches(pattern: str, text: str) -> bool:
    _budget.get().spend(1 + len(text) * weigh_pattern(pattern) // _CHARACTERS_PER_STEP)
    return matches(pattern, text)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, named: dict[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, part in named.items():
        for name, value in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, part: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    named, patterns = schema.get("properties", ()), schema.get("patternProperties", ())
    extra = [
        name
        for name in instance
        if name not in named and not any(_matches(pattern, name) for pattern in patterns)
    ]
    if isinstance(part, dict):
        for name in extra:
            yield from validator.descend(instance[name], part, path=name)
    elif part is False and extra:
        names = ", ".join(map(repr, extra[:MAX_PROBLEMS]))
        yield ValidationError(f"Additional properties are not allowed ({names})")


_WITHOUT_RE: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}


def _problem(error: ValidationError) -> Problem:
    """Of a choice none of whose branches fits, the error that came nearest."""
    nearest = best_match([error]) or error
    rule = ".".join(map(str, nearest.absolute_schema_path))
    return Problem(nearest.json_path, rule, _cut(nearest.message))


def _cut(message: str) -> str:
    if len(message) <= _MAX_MESSAGE:
        return message
    return f"{message[: _MAX_MESSAGE // 2]} … {message[-_MAX_MESSAGE // 2 :]}"
