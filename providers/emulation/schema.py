"""A caller's JSON Schema: whether it is one, and whether an answer fits it.

The verdict is the `jsonschema` package's (2020-12, or the dialect `$schema` names). What callers
could make endless is bounded: the size and depth of a schema, the steps of a validation, and its
expressions, which run in linear time (`patterns`). Nothing is ever fetched.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import orjson
from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from chat.errors import InvalidRequest
from providers.emulation.bounded import MAX_PROBLEMS, MAX_STEPS, TooCostly, bounded, budget, cut
from providers.emulation.formats import FORMATS
from providers.emulation.pattern_weight import weigh_pattern
from providers.emulation.patterns import MAX_WEIGHT, PatternRefused, compile_pattern
from providers.emulation.schema_parts import NoSchemaThere, Part, References, subschemas

MAX_BYTES = 100_000
"""The check against the meta-schema takes 4 to 8 us a byte."""
LARGE_BYTES = 16_000
"""A larger schema takes longer to judge than other requests should wait, and a few are kept."""
MAX_DEPTH = 64
_SHAPE_STEPS = 1_000_000
"""Of the check against the meta-schema: they are short ones."""
_FIRST_STEPS = 10_000
"""Without an answer there is little to look at."""

_DIALECTS: dict[str, Any] = {
    "https://json-schema.org/draft/2020-12/schema": Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "http://json-schema.org/draft-07/schema": Draft7Validator,
}
_NEWEST = "https://json-schema.org/draft/2020-12/schema"


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
        _check_shape(schema, dialect, param)
        references = _references(schema, param)
        parts = list(subschemas(schema, param))
        parts += _parts_reached(references, schema, dialect, param)
        _check_parts(parts, param)
        self._validator = bounded(dialect)(
            schema, registry=references.registry, format_checker=FORMATS
        )
        self._problems(None, steps=_FIRST_STEPS)  # what refers to itself in place is found out now

    @property
    def is_object(self) -> bool:
        """Whether the schema itself says that answers are objects."""
        return self.schema.get("type") == "object"

    def problems(self, value: Any) -> list[Problem]:
        """Why a value does not fit, the first few reasons; empty where it does. Raises
        InvalidRequest for a schema that takes too long or never ends."""
        return self._problems(value, steps=MAX_STEPS)

    def _problems(self, value: Any, *, steps: int) -> list[Problem]:
        try:
            with budget(steps):
                errors = self._validator.iter_errors(value)
                return [_problem(error) for error in islice(errors, MAX_PROBLEMS)]
        except RecursionError:
            raise _refused(self.param, "refers to itself without an end") from None
        except TooCostly:
            raise _refused(self.param, "takes too many steps to check an answer by") from None
        except Unresolvable as error:
            raise _unresolved(self.param, str(error.ref)) from None
        except OverflowError:  # 1e999 is a number in JSON
            return [Problem("$", "type", "a number is too large")]


def schema_of(schema: dict[str, Any], *, param: str) -> AnswerSchema:
    """`AnswerSchema`, remembered: callers send the same with every request."""
    text = _written(schema, param)
    return _large(text, param) if len(text) > LARGE_BYTES else _small(text, param)


def _read(text: str, param: str) -> AnswerSchema:
    return AnswerSchema(orjson.loads(text), param=param)


_small = lru_cache(maxsize=256)(_read)
_large = lru_cache(maxsize=16)(_read)


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


def _check_parts(parts: list[Part], param: str) -> None:
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


def _check_shape(schema: Any, dialect: Any, param: str) -> None:
    judge = bounded(dialect)(dialect.META_SCHEMA, registry=EMPTY_REGISTRY)
    try:
        with budget(_SHAPE_STEPS):
            error = best_match(islice(judge.iter_errors(schema), MAX_PROBLEMS))
    except RecursionError:
        raise _refused(param, "is nested too deeply") from None
    except TooCostly:
        raise _refused(param, "takes too many steps to check") from None
    if error is not None:
        place = error.json_path.removeprefix("$")
        raise InvalidRequest(
            f"The schema in '{param}' is not valid: {error.message}.",
            param=f"{param}{place}",
            code="invalid_schema",
        )


def _references(schema: dict[str, Any], param: str) -> References:
    try:
        return References(schema, dialect=schema.get("$schema", _NEWEST))
    except ValueError:
        raise _refused(param, "holds an `$id` that is no address") from None


def _parts_reached(
    references: References, schema: dict[str, Any], dialect: Any, param: str
) -> list[Part]:
    parts: list[Part] = []
    try:
        for part in references.reached(schema, param):
            _check_shape(part.schema, dialect, part.path)
            parts += subschemas(part.schema, part.path)
    except NoSchemaThere as error:
        raise _unresolved(error.path, error.reference) from None
    return parts


def _problem(error: ValidationError) -> Problem:
    """Of a choice none of whose branches fits, the error that came nearest."""
    nearest = best_match([error]) or error
    rule = ".".join(map(str, nearest.absolute_schema_path))
    return Problem(nearest.json_path, rule, cut(nearest.message))
