"""Calls written in Python: `[get_weather(city="Paris"), now()]`. Parsed, never run."""

from __future__ import annotations

import ast
import re
from typing import Any

from providers.emulation.reading.calls import Calls
from providers.emulation.reading.json_calls import MAX_DEPTH
from providers.emulation.reading.source import Malformed, NotACall, Reading, Source

MAX_CODE = 200_000
_NAME = re.compile(r"[\w.-]+")
_CODE = re.compile(r"[^'\"()\[\]{}]+")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_IN_STRING = {"'": re.compile(r"[^'\\]+"), '"': re.compile(r'[^"\\]+')}
_LEADING_ZEROS = re.compile(r"(?<![\w.])0+(?=\d)")
_ESCAPES = frozenset("\\'\"abfnrtvxuUN01234567\n")
_NAMED_VALUES = {"true": True, "false": False, "null": None, "none": None, "nil": None}
_PREFIXES = ("functions.", "default_api.", "tools.")
_SEPARATORS = re.compile(r"[\s,;]*")


def read_python_calls(source: Source, calls: Calls) -> Reading[None]:
    """A list of calls, or calls one after another. Raises NotACall and Malformed."""
    listed = (yield from source.skip_space()) == "["
    written: list[str] = []
    while True:
        start = source.at
        if not (yield from _starts(source, calls, listed=listed)):
            if not written:
                raise NotACall
            source.at = start
            break
        source.at = start
        written.append((yield from _balanced(source)))
        if listed:
            break
        written.append("\n")
        yield from source.matched(_SEPARATORS)
    for name, arguments in parse_calls("".join(written), calls):
        calls.call(name, arguments)


def _starts(source: Source, calls: Calls, *, listed: bool) -> Reading[bool]:
    """Whether a call of an offered tool begins here."""
    if listed:
        yield from source.take("[")
        yield from source.skip_space()
    name = yield from source.matched(_NAME)
    if (yield from source.skip_space()) != "(":
        return False
    if name == "print":
        yield from source.take("(")
        name = yield from source.matched(_NAME)
    return _without_prefix(name) in calls.schemas


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _balanced(source: Source) -> Reading[str]:
    """Code up to where the first bracket is closed, ready for Python's parser: a list of calls as
    it is, a call with its name."""
    pieces = []
    expected: list[str] = []
    while True:
        pieces.append(_LEADING_ZEROS.sub("", (yield from source.matched(_CODE))))
        letter = yield from source.peek()
        if not letter:
            raise Malformed("a bracket is not closed")
        if letter in _IN_STRING:
            pieces.append((yield from _string(source, letter)))
            continue
        source.at += 1
        pieces.append(letter)
        if letter in _CLOSING:
            expected.append(_CLOSING[letter])
            if len(expected) > MAX_DEPTH:
                raise Malformed("the arguments are nested too deeply")
        elif not expected or expected.pop() != letter:
            raise Malformed(f"`{letter}` closes nothing")
        if not expected:
            return "".join(pieces)


def _string(source: Source, quote: str) -> Reading[str]:
    """A string as Python takes it: models write line breaks and lone backslashes into them."""
    opening = yield from source.take(quote * 3, quote * 2, quote)
    if opening == quote * 2:
        return opening
    pieces = [opening]
    while True:
        text = yield from source.matched(_IN_STRING[quote])
        pieces.append(text if len(opening) == 3 else text.replace("\n", "\\n"))
        if (closing := (yield from source.take(opening, quote))) == opening:
            pieces.append(closing)
            return "".join(pieces)
        if closing:
            pieces.append(closing)
            continue
        source.at += 1
        letter = yield from source.peek()
        source.at += 1
        if not letter:
            raise Malformed("a string is not closed")
        pieces.append(f"\\{letter}" if letter in _ESCAPES else f"\\\\{letter}")


def parse_calls(code: str, calls: Calls) -> list[tuple[str, dict[str, Any]]]:
    """The calls in a piece of Python. Raises Malformed."""
    if len(code) > MAX_CODE:
        raise Malformed("the call is too long")
    try:
        statements = ast.parse(code.strip()).body
        found = [node for each in statements for node in _expressions(each)]
        return [_call(node, calls) for node in found]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Malformed("the call is no valid Python") from None


def _expressions(statement: ast.stmt) -> list[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise Malformed("it is no call")
    value = statement.value
    return value.elts if isinstance(value, ast.List | ast.Tuple) else [value]


def _call(node: ast.expr, calls: Calls) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call):
        raise Malformed("it is no call")
    name = ast.unparse(node.func)
    if name == "print" and len(node.args) == 1:
        return _call(node.args[0], calls)
    name = _without_prefix(name)
    if name not in calls.schemas:
        raise Malformed(f"there is no tool {name[:64]!r}")
    arguments: dict[str, Any] = {}
    places = iter(calls.schemas[name].get("properties") or ())
    for value in node.args:
        if (place := next(places, None)) is None:
            raise Malformed(f"{name} is given too many arguments without names")
        arguments[place] = _value(value)
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise Malformed("an argument has no name, or stands twice")
        arguments[keyword.arg] = _value(keyword.value)
    return name, arguments


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id=name) if name.lower() in _NAMED_VALUES:
            return _NAMED_VALUES[name.lower()]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
    raise Malformed("an argument is no plain value")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int):
        return str(node.value)
    raise Malformed("a name in an object is no text")
