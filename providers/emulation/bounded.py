"""JSON Schema's dialects with every step counted, and with linear expressions.

What a validation costs is what its keywords look at: steps are weighed by that, so that no schema
and no answer, however they are made for each other, hold the loop for longer than MAX_STEPS do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import orjson
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from providers.emulation.equality import are_unique
from providers.emulation.pattern_weight import weigh_pattern
from providers.emulation.patterns import matches

MAX_STEPS = 100_000
"""Keywords looked at in one validation, weighed by the size of what they hold, at 6 us each. An
answer of 4,000 objects with ten fields is below it."""
MAX_PROBLEMS = 10
_MAX_MESSAGE = 300
_CHARACTERS_PER_STEP = 2000
"""For an expression of weight 1."""
_WRITTEN_PER_STEP = 500
"""Characters of a value in a message, and of a text whose format is checked."""
_COMPARED_PER_STEP = 32
"""Bytes of JSON that an answer is compared with."""
_LOOKED_UP_PER_STEP = 200
"""Names in a list: which of them are evaluated already, is looked up in one."""
_CHOICE_WEIGHT = 4
"""Of each branch of a choice: errors are collected in all of them."""
_COMPARED = frozenset({"const", "enum", "dependentRequired", "dependencies"})


class TooCostly(Exception):
    """A validation took more steps than any honest one."""


class _Budget:
    __slots__ = ("left",)

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooCostly


_budget: ContextVar[_Budget] = ContextVar("schema_budget")
Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


@contextmanager
def budget(steps: int) -> Iterator[None]:
    """So many steps for what is validated within. TooCostly is raised at the one that is more."""
    token = _budget.set(_Budget(steps))
    try:
        yield
    finally:
        _budget.reset(token)


@lru_cache(maxsize=8)
def bounded(dialect: Any) -> Any:
    """The dialect, for use within a `budget`."""
    keywords = {**dialect.VALIDATORS, **_OURS}
    found: Any = extend(dialect, {name: _counted(name, each) for name, each in keywords.items()})
    found.evolve = _evolve
    return found


def _evolve(validator: Any, **changes: Any) -> Any:
    """The same dialect for a part of the schema. The package's own goes over to the one a part
    names in its `$schema`, where nothing is counted."""
    kept = {
        "schema": validator.schema,
        "registry": validator._registry,
        "format_checker": validator.format_checker,
        "_resolver": validator._resolver,
    }
    return type(validator)(**{**kept, **changes})


def _counted(name: str, keyword: Keyword) -> Keyword:
    factor = _CHOICE_WEIGHT if name in ("anyOf", "oneOf") else 1

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        spend = _budget.get().spend
        spend(_weight(name, value, instance) * factor)
        for error in keyword(validator, value, instance, schema) or ():
            # Errors are kept, those of every branch of a choice, and each holds what it is about.
            spend(len(error.message) // _WRITTEN_PER_STEP)
            error.message = cut(error.message)
            yield error

    return check


def _weight(name: str, value: Any, instance: Any) -> int:
    if isinstance(instance, str):
        return 1 + (len(instance) // _WRITTEN_PER_STEP if name == "format" else _width(value))
    steps = 1 + _width(value)
    if isinstance(instance, list | dict):
        steps += len(instance) // 8
        if name in _COMPARED:
            steps += len(orjson.dumps(value)) // _COMPARED_PER_STEP
        elif name.startswith("unevaluated"):
            steps += len(instance) ** 2 // _LOOKED_UP_PER_STEP
    return steps


def _width(value: Any) -> int:
    """How much a keyword holds; of a reference, how long the way is."""
    if isinstance(value, list | dict):
        return len(value)
    return value.count("/") if isinstance(value, str) else 0


def cut(message: str) -> str:
    if len(message) <= _MAX_MESSAGE:
        return message
    return f"{message[: _MAX_MESSAGE // 2]} … {message[-_MAX_MESSAGE // 2 :]}"


# --- keywords of our own ------------------------------------------------------------------------


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


def _unique_items(
    validator: Any, wanted: bool, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    """The package compares objects each with each."""
    if wanted and isinstance(instance, list) and not are_unique(instance, _spend_on):
        yield ValidationError("the items are not unique")


def _spend_on(values: int) -> None:
    _budget.get().spend(1 + values // 8)


_OURS: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
