"""Regular expressions of callers, by an engine whose time is linear.

Python's own takes exponential time for `(a+)+$`, and nothing can interrupt it. pydantic-core brings
Rust's `regex`, which knows no look-around and no back-references. Look-ahead right after `^` is
what schemas really hold (pydantic writes decimals so, passwords are checked so): that is checked as
expressions of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from pydantic_core import SchemaError, SchemaValidator, core_schema

from providers.emulation.pattern_weight import weigh_pattern

MAX_LENGTH = 2000
MAX_WEIGHT = 2000
"""Of all expressions of a schema together, see `weigh_pattern`: 60 ms and 12 MB."""
_HEAVY = 150
"""So heavy a one is remembered beside a few others only; no schema has more than are remembered."""
_AHEAD = {"(?=": True, "(?!": False}


class PatternRefused(Exception):
    """An expression that cannot be checked in linear time, or is none."""


class _Part(NamedTuple):
    validator: SchemaValidator
    wanted: bool


def compile_pattern(pattern: str) -> tuple[_Part, ...]:
    """What must be found and what must not be. Raises PatternRefused."""
    if len(pattern) > MAX_LENGTH:
        raise PatternRefused(f"longer than {MAX_LENGTH} characters")
    weight = weigh_pattern(pattern)
    if weight > MAX_WEIGHT:
        raise PatternRefused("too large once its repetitions are written out")
    return _heavy(pattern) if weight > _HEAVY else _light(pattern)


def _compiled(pattern: str) -> tuple[_Part, ...]:
    parts = []
    rest = pattern
    while (found := _leading_look_ahead(rest)) is not None:
        inner, wanted, rest = found
        parts.append(_Part(_compile(f"^(?:{inner})"), wanted))
    parts.append(_Part(_compile(rest), wanted=True))
    return tuple(parts)


_light = lru_cache(maxsize=256)(_compiled)
_heavy = lru_cache(maxsize=MAX_WEIGHT // _HEAVY + 3)(_compiled)


def matches(pattern: str, text: str) -> bool:
    """Whether the expression is found anywhere in the text, as JSON Schema means it."""
    return all(
        part.validator.isinstance_python(text) is part.wanted for part in compile_pattern(pattern)
    )


def _compile(pattern: str) -> SchemaValidator:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern))
    except (SchemaError, UnicodeEncodeError):
        raise PatternRefused("not an expression that linear time is enough for") from None


def _leading_look_ahead(pattern: str) -> tuple[str, bool, str] | None:
    """Of `^(?!a)b`: `a`, False, `^b`; None where nothing leads, or where an alternative beside it
    would not be held to it."""
    wanted = _AHEAD.get(pattern[1:4])
    if wanted is None or not pattern.startswith("^"):
        return None
    end = _group_end(pattern, 1)
    if end is None or _has_alternatives(pattern[end:]):
        return None
    return pattern[4 : end - 1], wanted, f"^{pattern[end:]}"


def _group_end(pattern: str, start: int) -> int | None:
    """Where the group that opens at `start` has closed."""
    depth = 0
    for at, sign in _signs(pattern[start:]):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return start + at + 1
    return None


def _has_alternatives(pattern: str) -> bool:
    depth = 0
    for _, sign in _signs(pattern):
        depth += (sign == "(") - (sign == ")")
        if sign == "|" and depth == 0:
            return True
    return False


def _signs(pattern: str) -> list[tuple[int, str]]:
    """The parentheses and bars that mean something, and where they stand."""
    found = []
    escaped = in_class = False
    for at, sign in enumerate(pattern):
        if escaped:
            escaped = False
        elif sign == "\\":
            escaped = True
        elif in_class:
            in_class = sign != "]"
        elif sign == "[":
            in_class = True
        elif sign in "()|":
            found.append((at, sign))
    return found
