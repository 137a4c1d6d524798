"""The JSON in what a model says: alone, in a code fence, or in a sentence. Nothing of it is
changed: what is taken out is a piece of the text."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

_MAX_STARTS = 64
"""Brackets looked behind; a failure takes as long as the text before it."""
_PAIRS = {"{": re.compile(r"[{}]"), "[": re.compile(r"[\[\]]")}


class Found(NamedTuple):
    value: Any
    text: str
    """The very characters the value was read from."""
    start: int = 0
    """Where they stood."""


class NoAnswer(Exception):
    """Why no one JSON value can be taken from a text, in a sentence for the model."""


def find_value(text: str, *, opening: str = "{") -> Found:
    """The one JSON value of a text. Around it there may be prose, then only what begins with
    `opening` is looked for. Raises NoAnswer."""
    whole = text.strip()
    if not whole:
        raise NoAnswer("the answer is empty")
    try:
        return Found(_read(whole), whole)
    except (ValueError, RecursionError) as error:
        reason = _told(error)
    found = _embedded(_without_thoughts(whole, opening), opening)
    if not found:
        raise NoAnswer(f"the answer is not JSON: {reason}")
    if any(other.value != found[0].value for other in found[1:]):
        raise NoAnswer("the answer holds several JSON values, and it is not clear which is meant")
    return found[0]


_THOUGHTS_END = "</think>"


def _without_thoughts(text: str, opening: str) -> str:
    """What follows the last end of thoughts that is no part of a value's own text."""
    at = text.rfind(_THOUGHTS_END)
    if at < 0:
        return text
    values = _embedded(text, opening)
    while any(each.start < at < each.start + len(each.text) for each in values):
        at = text.rfind(_THOUGHTS_END, 0, at)
    return text if at < 0 else text[at + len(_THOUGHTS_END) :]


def _embedded(text: str, opening: str) -> list[Found]:
    """The values that stand in a text. What only looks like one is passed over as far as its
    brackets go, so that no part of a broken value is taken for the whole."""
    found = []
    at = text.find(opening)
    for _ in range(_MAX_STARTS):
        if at < 0:
            break
        try:
            value, end = _decoder.raw_decode(text, at)
            found.append(Found(value, text[at:end], at))
        except (ValueError, RecursionError):
            end = _behind(text, at, opening)
        at = text.find(opening, end)
    return found


def _behind(text: str, start: int, opening: str) -> int:
    depth = 0
    for bracket in _PAIRS[opening].finditer(text, start):
        depth += 1 if bracket[0] == opening else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_number
)
_read = _decoder.decode
