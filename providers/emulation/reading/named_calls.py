"""Calls that begin with the tool's name: GLM's pairs, Gemma 4's `call:NAME{…}`, Mistral's
`NAME{…}`, DeepSeek's `NAME<sep>{…}`."""

from __future__ import annotations

import re
from typing import Any

from providers.emulation.reading.calls import Calls
from providers.emulation.reading.json_calls import (
    MAX_DEPTH,
    Beginning,
    read_arguments,
    read_value,
)
from providers.emulation.reading.members import Members
from providers.emulation.reading.python_calls import read_python_calls
from providers.emulation.reading.source import Malformed, NotACall, Reading, Source
from providers.emulation.reading.typed import typed

_NAME = re.compile(r"[^\s{}()<>\[\]\"',`=｜]+")
_PAIR = re.compile(r"[\w.-]+")
_UNQUOTED = re.compile(r"[^,:{}\[\]<>\"]+")
_TO_SPACE = re.compile(r"[^\s<]+")
_SEPARATOR = "<｜tool▁sep｜>"
_QUOTE = '<|"|>'
_FENCE = "```json"


def read_named_call(source: Source, calls: Calls) -> Reading[None]:
    """One call whose name comes first. Raises NotACall and Malformed."""
    start = source.at
    word = yield from source.matched(_NAME)
    following = yield from source.peek()
    if following == "(":
        source.at = start
        yield from read_python_calls(source, calls)
        return
    if word == "function" and (yield from source.take(_SEPARATOR)):  # DeepSeek V3 names the type
        word = yield from source.matched(_NAME)
    if not word:
        raise NotACall
    if not (yield from source.peek()) and calls.may_become(word):
        raise Malformed("it breaks off in the name of the tool")
    is_gemma = word.startswith((":", "call:"))
    name = calls.name(word.removeprefix("call").removeprefix(":") if is_gemma else word)
    following = yield from source.skip_space()
    if following == "{" and is_gemma:
        calls.call(name, (yield from _loose_object(source, 0)))
    elif following == "{":
        yield from read_arguments(source, Beginning(calls, name))
    elif following == "[" and (yield from source.take("[ARGS]")):
        yield from source.skip_space()
        yield from read_arguments(source, Beginning(calls, name))
    elif following == "<" or following == "`":
        yield from _after_mark(source, calls, name)
    elif following:
        yield from _words(source, calls, name)
    else:
        raise Malformed("it breaks off after the name of the tool")


def _after_mark(source: Source, calls: Calls, name: str) -> Reading[None]:
    mark = yield from source.take("<arg_key>", _SEPARATOR, "</", "<tool_call|>", _FENCE)
    if mark == "<arg_key>":
        yield from _pairs(source, calls, name)
    elif mark in (_SEPARATOR, _FENCE):
        yield from _fenced(source, calls, name)
    elif mark:  # a call without arguments: its end is left to be read
        source.at -= len(mark)
        calls.call(name, {})
    else:
        raise NotACall


def _fenced(source: Source, calls: Calls, name: str) -> Reading[None]:
    """DeepSeek's arguments, in a fence or not."""
    yield from source.skip_space()
    yield from source.take(_FENCE)
    yield from source.skip_space()
    yield from read_arguments(source, Beginning(calls, name))
    yield from source.skip_space()
    yield from source.take("```")


def _pairs(source: Source, calls: Calls, name: str) -> Reading[None]:
    """GLM's `<arg_key>k</arg_key><arg_value>v</arg_value>`, the first mark taken."""
    members = Members(calls, name)
    while True:
        key, closed = yield from source.until("</arg_key>")
        yield from source.skip_space()
        if not closed or not (yield from source.take("<arg_value>")):
            raise Malformed("`<arg_key>` is not followed by `<arg_value>`")
        yield from members.read(source, key.strip(), "</arg_value>")
        yield from source.skip_space()
        if not (yield from source.take("<arg_key>")):
            break
    if (yield from source.peek()) == "":
        raise Malformed("it breaks off after a parameter")
    members.end()


def _words(source: Source, calls: Calls, name: str) -> Reading[None]:
    """`NAME key=value key=value`."""
    found: list[tuple[str, str]] = []
    while (following := (yield from source.skip_space())) and following != "<":
        key = yield from source.matched(_PAIR)
        if not key or not (yield from source.take("=")):
            raise NotACall
        found.append((key, (yield from source.matched(_TO_SPACE))))
    members = Members(calls, name)
    for key, text in found:
        members.add(key, text)
    members.end()


# --- Gemma's values -----------------------------------------------------------------------------


def _loose_object(source: Source, depth: int) -> Reading[dict[str, Any]]:
    """JSON whose names need no quotes and whose strings may stand in Gemma's own."""
    if depth > MAX_DEPTH:
        raise Malformed("the arguments are nested too deeply")
    source.at += 1
    members: dict[str, Any] = {}
    while (following := (yield from source.skip_space())) != "}":
        if following == ",":
            source.at += 1
            continue
        key = yield from _loose_value(source, depth)
        if (yield from source.skip_space()) != ":" or not isinstance(key, str):
            raise Malformed("a `:` is missing after a name")
        source.at += 1
        yield from source.skip_space()
        members[key] = yield from _loose_value(source, depth)
    source.at += 1
    return members


def _loose_list(source: Source, depth: int) -> Reading[list[Any]]:
    if depth > MAX_DEPTH:
        raise Malformed("the arguments are nested too deeply")
    source.at += 1
    items: list[Any] = []
    while (following := (yield from source.skip_space())) != "]":
        if following == ",":
            source.at += 1
            continue
        items.append((yield from _loose_value(source, depth)))
    source.at += 1
    return items


def _loose_value(source: Source, depth: int) -> Reading[Any]:
    following = yield from source.peek()
    if following == "{":
        return (yield from _loose_object(source, depth + 1))
    if following == "[":
        return (yield from _loose_list(source, depth + 1))
    if following == '"':
        pieces: list[str] = []
        yield from read_value(source, pieces.append)
        return typed("".join(pieces), "", {})
    if (yield from source.take(_QUOTE)):
        text, closed = yield from source.until(_QUOTE)
        if not closed:
            raise Malformed(f"`{_QUOTE}` is not closed")
        return text
    word = (yield from source.matched(_UNQUOTED)).strip()
    if not word:
        raise Malformed("a value is missing")
    return typed(word, "", {})
