"""Calls written as JSON: `{"name": …, "arguments": {…}}`, alone or in a list.

The arguments are passed on while they come, each character checked, so that what has been shown
is the beginning of valid JSON whatever follows. Space between tokens is left out, and a control
character in a string, which models write and JSON forbids, is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from providers.emulation.reading.calls import Calls, json_of
from providers.emulation.reading.source import Malformed, NotACall, Reading, Source

MAX_DEPTH = 64
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR = re.compile(r"[-+.\w]+")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_NAMES = frozenset({"name", "tool_name", "tool"})
_ARGUMENTS = frozenset({"arguments", "parameters", "args"})
_KNOWN = _NAMES | _ARGUMENTS | {"type", "id", "function"}
Sink = Callable[[str], None]


def read_json_calls(source: Source, calls: Calls, *, bare: bool) -> Reading[None]:
    """An object or a list of them, and more of them after `;` or `,`. A `bare` one, which no tag
    announces, has to have its arguments. Raises NotACall and Malformed."""
    while True:
        if (yield from source.skip_space()) == "[":
            yield from _list(source, calls, bare=bare)
        else:
            yield from _call(source, calls, bare=bare)
        if not (yield from _another(source)):
            return


def _another(source: Source) -> Reading[bool]:
    """Whether `;` or `,` and the beginning of another object come; taken where so."""
    had_mark, before = source.mark is not None, source.at
    if not had_mark:
        source.mark = before
    yield from source.skip_space()
    if (yield from source.take(";", ",")) and (yield from source.skip_space()) == "{":
        return True
    source.at = before
    if not had_mark:
        source.mark = None
    return False


def _list(source: Source, calls: Calls, *, bare: bool) -> Reading[None]:
    yield from source.take("[")
    if (yield from source.skip_space()) != "{":
        raise NotACall
    while True:
        yield from _call(source, calls, bare=bare)
        after = yield from source.skip_space()
        yield from source.take(",", "]")
        if after == "]":
            return
        if after != "," or (yield from source.skip_space()) != "{":
            raise Malformed("the list of calls is not closed with `]`")


def _call(source: Source, calls: Calls, *, bare: bool, inner: bool = False) -> Reading[None]:
    """One object that is a call, or holds one under the name `function`."""
    if not (yield from source.take("{")):
        raise NotACall
    call = _Call(calls)
    while (yield from source.skip_space()) == '"':
        key = yield from _key(source, call)
        if key == "function" and not (call.name or inner) and (yield from source.peek()) == "{":
            yield from _call(source, calls, bare=bare, inner=True)
            call.name, call.argued = key, True
        else:
            yield from call.member(source, key)
        if (yield from source.skip_space()) == ",":
            yield from source.take(",")
    if not call.name:
        raise NotACall
    ended = (yield from source.peek()) == ""
    if not (yield from source.take("}")) and not (ended and call.argued):
        raise Malformed(f"the call of {call.name} is no valid JSON object")
    if not call.argued:
        if bare:
            raise NotACall
        calls.call(call.name, {})


def _key(source: Source, call: _Call) -> Reading[str]:
    key = yield from _string(source)
    if not (call.name or key in _KNOWN or key in call.calls.schemas):
        raise NotACall
    if (yield from source.skip_space()) != ":":
        raise NotACall if not call.name else Malformed("a `:` is missing after a name")
    yield from source.take(":")
    yield from source.skip_space()
    return key


class _Call:
    """What is known of a call so far, whatever the order of its members."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.name = ""
        self.argued = False
        self._early = ""

    def member(self, source: Source, key: str) -> Reading[None]:
        if key in _NAMES and not self.name:
            self.name = yield from _name(source, self.calls)
            if self._early:
                self.calls.begin(self.name)
                self.calls.argue(self._early)
                self.argued = True
        elif key in _ARGUMENTS and not self.argued:
            yield from self._arguments(source)
        elif key in self.calls.schemas and not self.name:  # `{"get_weather": {…}}`
            self.name = key
            yield from self._arguments(source)
        else:
            yield from self._passed_over(source)

    def _arguments(self, source: Source) -> Reading[None]:
        if self.name:
            self.argued = True
            yield from read_arguments(source, Beginning(self.calls, self.name))
            return
        pieces: list[str] = []
        try:
            yield from read_arguments(source, pieces.append)
        except Malformed:
            raise NotACall from None  # of what, nobody has said
        self._early = "".join(pieces)

    def _passed_over(self, source: Source) -> Reading[None]:
        try:
            yield from read_value(source, _nowhere)
        except Malformed:
            if not self.name:
                raise NotACall from None
            raise


def _name(source: Source, calls: Calls) -> Reading[str]:
    pieces: list[str] = []
    if (yield from source.peek()) != '"':
        raise NotACall
    try:
        yield from _copy_string(source, pieces.append)
    except Malformed:
        start = "".join(pieces)[1:]
        if start and calls.may_become(start):
            raise Malformed("it breaks off in the name of the tool") from None
        raise NotACall from None
    return calls.name(json.loads("".join(pieces)))


class Beginning:
    """Begins the call with the first arguments that are certain to be some."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self._name = name
        self._held = ""
        self._begun = False

    def __call__(self, text: str) -> None:
        if self._begun:
            self._calls.argue(text)
            return
        self._held += text
        if len(self._held) > 1:
            self._begun = True
            self._calls.begin(self._name)
            self._calls.argue(self._held)


def read_arguments(source: Source, sink: Sink) -> Reading[None]:
    """The object of arguments, or a string that holds it, or null for none."""
    first = yield from source.peek()
    if first == "{":
        yield from read_value(source, sink)
    elif first == '"':
        sink(_object_in((yield from _string(source))))
    elif (yield from source.take("null")):
        sink("{}")
    else:
        raise Malformed("`arguments` is no JSON object")


def _object_in(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Malformed("`arguments` is no JSON object")
    return json_of(value)


def _nowhere(text: str) -> None:
    pass


def read_value(source: Source, sink: Sink, depth: int = 0) -> Reading[None]:
    """One JSON value, put into `sink` as it comes. Raises Malformed."""
    first = yield from source.skip_space()
    if first in ("{", "["):
        if depth >= MAX_DEPTH:
            raise Malformed("the arguments are nested too deeply")
        yield from _members(source, sink, first, depth)
    elif first == '"':
        yield from _copy_string(source, sink)
    else:
        word = yield from source.matched(_SCALAR)
        if word not in ("true", "false", "null") and not _NUMBER.fullmatch(word):
            raise Malformed(f"{_shown(word, first)} is no JSON value")
        sink(word)


def _shown(word: str, first: str) -> str:
    return repr((word or first)[:20]) if word or first else "the end of the answer"


def _members(source: Source, sink: Sink, opened: str, depth: int) -> Reading[None]:
    closing = "}" if opened == "{" else "]"
    source.at += 1
    sink(opened)
    following = yield from source.skip_space()
    while following != closing:
        if opened == "{":
            if following != '"':
                raise Malformed(f"{_shown('', following)} stands where a name in quotes should")
            yield from _copy_string(source, sink)
            if (yield from source.skip_space()) != ":":
                raise Malformed("a `:` is missing after a name")
            source.at += 1
            sink(":")
        yield from read_value(source, sink, depth + 1)
        following = yield from source.skip_space()
        if following == ",":
            source.at += 1
            sink(",")
            if (following := (yield from source.skip_space())) == closing:
                raise Malformed("a `,` stands before the end")
        elif following != closing:
            raise Malformed(f"`,` or `{closing}` is missing")
    source.at += 1
    sink(closing)


def _string(source: Source) -> Reading[str]:
    pieces: list[str] = []
    if (yield from source.peek()) != '"':
        raise NotACall
    try:
        yield from _copy_string(source, pieces.append)
    except Malformed:
        raise NotACall from None
    text: str = json.loads("".join(pieces))
    return text


def _copy_string(source: Source, sink: Sink) -> Reading[None]:
    source.at += 1
    sink('"')
    while True:
        found = _PLAIN.match(source.text, source.at)
        if found is not None:
            sink(found[0])
            source.at = found.end()
        following = yield from source.peek()
        if following == '"':
            source.at += 1
            sink('"')
            return
        if following == "\\":
            sink((yield from _escape(source)))
        elif not following:
            raise Malformed("a string is not closed")
        elif following < " ":
            source.at += 1
            sink(json.dumps(following)[1:-1])


def _escape(source: Source) -> Reading[str]:
    source.at += 1
    letter = yield from source.peek()
    source.at += 1
    if letter == "u":
        return (yield from _unicode(source))
    if letter and letter in '"\\/bfnrt':
        return "\\" + letter
    if letter == "'":
        return "'"
    raise Malformed(f"`\\{letter}` is no escape of JSON")


def _unicode(source: Source) -> Reading[str]:
    """An escaped character; half of one that needs two becomes the sign for what is unreadable, as
    no JSON reader takes it."""
    code = yield from _hex(source)
    if not 0xD800 <= code < 0xE000:
        return f"\\u{code:04x}"
    if code < 0xDC00 and (yield from source.take("\\u")):
        second = yield from _hex(source)
        if 0xDC00 <= second < 0xE000:
            return f"\\u{code:04x}\\u{second:04x}"
    return "\\ufffd"


def _hex(source: Source) -> Reading[int]:
    digits = ""
    while len(digits) < 4 and (letter := (yield from source.peek())):
        digits += letter
        source.at += 1
    if not _HEX.fullmatch(digits):
        raise Malformed("`\\u` is not followed by four digits")
    return int(digits, 16)
