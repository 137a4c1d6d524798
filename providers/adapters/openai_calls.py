"""Mends the tool calls of servers that nearly speak OpenAI's wire.

Seen: calls without ids, the same id for two calls, places that begin at 1 or leave gaps, one place
for all calls (each with its own id), id and name again in every piece (which the SDKs' accumulators
add up to `call_1call_1`), and `stop` for an answer that calls (M28, M29). A stream that has none of
it is only looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chat.types import ChatChunk


def new_call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


@dataclass(slots=True)
class _Choice:
    """The calls of one choice so far: by the upstream's places, where they went; ids and names in
    our order."""

    places: dict[int, int] = field(default_factory=dict)
    told_ids: list[str] = field(default_factory=list)
    """As the upstream told them, empty where it did not."""
    names: list[str] = field(default_factory=list)

    def copy(self) -> _Choice:
        return _Choice(self.places.copy(), self.told_ids.copy(), self.names.copy())

    def add(self, place: int, told_id: str, name: str) -> int:
        self.places[place] = len(self.names)
        self.told_ids.append(told_id)
        self.names.append(name)
        return len(self.names) - 1


class CallMender:
    """The calls of one stream. `accepts` takes note of chunks that need nothing; what it refuses
    goes through `mend`."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}

    def accepts(self, chunks: Iterable[ChatChunk]) -> bool:
        """Whether all of the chunks' calls are as they should be; takes note of them if so."""
        touched: dict[int, _Choice] = {}
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            known = touched.get(choice.index) or self._choices.get(choice.index)
            calls = choice.delta.tool_calls
            if calls:
                if choice.index not in touched:
                    known = touched[choice.index] = known.copy() if known else _Choice()
                assert known is not None
                if not all(_is_sound(known, call.index, call.id, call.function) for call in calls):
                    return False
            if choice.finish_reason == "stop" and known is not None:
                return False
        self._choices.update(touched)
        return True

    def mend(self, choice: dict[str, Any]) -> None:
        """A choice of a chunk, whose calls have places and are objects."""
        calls = choice["delta"].get("tool_calls") or ()
        known = self._choices.get(choice["index"])
        if calls and known is None:
            known = self._choices[choice["index"]] = _Choice()
        for call in calls:
            assert known is not None
            _mend_call(call, known)
        if choice["finish_reason"] == "stop" and known is not None:
            choice["finish_reason"] = "tool_calls"


def _is_sound(known: _Choice, place: int, told_id: str | None, function: Any) -> bool:
    name = function.name if function is not None else None
    if place in known.places:
        return told_id is None and name is None
    if place != len(known.names) or not told_id or not name or told_id in known.told_ids:
        return False
    known.add(place, told_id, name)
    return True


def _mend_call(call: dict[str, Any], known: _Choice) -> None:
    function = call.get("function")
    function = call["function"] = function if isinstance(function, dict) else {}
    told_id = call.get("id") if isinstance(call.get("id"), str) else ""
    name = function.get("name") if isinstance(function.get("name"), str) else ""
    at = known.places.get(call["index"])
    if at is None or _is_another(known, at, told_id or "", name or ""):
        is_taken = not told_id or told_id in known.told_ids
        at = known.add(call["index"], told_id or "", name or "")
        call.update(index=at, id=new_call_id() if is_taken else told_id)
        call.setdefault("type", "function")
        return
    call["index"] = at
    for key in ("id", "type"):
        call.pop(key, None)
    if known.names[at]:
        function.pop("name", None)
    elif name:
        known.names[at] = name


def _is_another(known: _Choice, at: int, told_id: str, name: str) -> bool:
    """Whether a piece at a known place begins a call of its own all the same."""
    if told_id and known.told_ids[at]:
        return told_id != known.told_ids[at]
    return bool(name and known.names[at] and name != known.names[at])


def needs_mending(calls: Iterable[Any]) -> bool:
    """Whether a whole answer's calls, each with `id` and `function`, lack something."""
    ids = [call.id for call in calls]
    return not all(ids) or len(set(ids)) < len(ids)


def mend_whole(choice: dict[str, Any]) -> None:
    """A choice of a whole answer, whose calls are objects."""
    seen: set[str] = set()
    calls = choice["message"].get("tool_calls") or ()
    for call in calls:
        told_id = call.get("id")
        if not isinstance(told_id, str) or not told_id or told_id in seen:
            call["id"] = new_call_id()
        seen.add(call["id"])
        call.setdefault("type", "function")
    if calls and choice["finish_reason"] == "stop":
        choice["finish_reason"] = "tool_calls"
