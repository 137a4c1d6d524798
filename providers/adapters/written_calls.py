"""Calls of tools in a text that holds nothing else: `{"name": …, "arguments": {…}}`, or an array of
such, as a decoder that is held to that schema writes it. White space is free."""

from __future__ import annotations

import json
import re
import uuid

from chat.types import FunctionDelta, ToolCallDelta

_HEAD = re.compile(
    r'[\s\[,}]*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)'
)
"""Up to a call's arguments; begins with what is left of the call before it."""
_MARK = re.compile(r'["{}\\]')


class CallReader:
    """The calls of one text that comes in pieces. Arguments go out as they come."""

    def __init__(self) -> None:
        self.count = 0
        """Calls begun."""
        self._head = ""
        """What came since the last call's arguments."""
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> list[ToolCallDelta]:
        deltas: list[ToolCallDelta] = []
        while text:
            if self._depth:
                arguments, text = self._through_arguments(text)
                deltas.append(self._delta(arguments=arguments))
                continue
            self._head += text
            begun = _HEAD.match(self._head)
            if begun is None:
                break
            text, self._head = self._head[begun.end() :], ""
            deltas.append(self._begin(json.loads(begun["name"])))
            self._depth, text = 1, text[1:]
            deltas.append(self._delta(arguments="{"))
        return _joined(deltas)

    def _begin(self, name: str) -> ToolCallDelta:
        self.count += 1
        delta = self._delta(arguments="")
        delta.id, delta.type = f"call_{uuid.uuid4().hex[:24]}", "function"
        delta.function = FunctionDelta(name=name, arguments="")
        return delta

    def _delta(self, *, arguments: str) -> ToolCallDelta:
        return ToolCallDelta(index=self.count - 1, function=FunctionDelta(arguments=arguments))

    def _through_arguments(self, text: str) -> tuple[str, str]:
        """What of `text` belongs to the arguments, and what comes after them."""
        at = 0
        if self._escaped:
            self._escaped, at = False, 1
        while (mark := _MARK.search(text, at)) is not None:
            at = mark.end()
            if mark[0] == "\\":
                if at == len(text):
                    self._escaped = True
                at += 1
            elif mark[0] == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark[0] == "{" else -1
                if not self._depth:
                    return text[:at], text[at:]
        return text, ""


def _joined(deltas: list[ToolCallDelta]) -> list[ToolCallDelta]:
    """One delta for each call."""
    joined: list[ToolCallDelta] = []
    for delta in deltas:
        if joined and joined[-1].index == delta.index:
            before, more = joined[-1].function, delta.function
            assert before is not None and more is not None, "all of ours are of functions"
            before.arguments = (before.arguments or "") + (more.arguments or "")
        else:
            joined.append(delta)
    return joined
