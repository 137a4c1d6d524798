"""One turn of a model within a loop over tools: what of it a caller sees while it comes, and what
it says in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from chat.folding import CompletionFolder
from chat.types import Batch, ChatChunk, ChunkChoice, Delta, FinishReason

_RUNNABLE = ("tool_calls", "stop")
"""Finish reasons of a turn whose calls are whole; one that was cut off ends in half a call."""


@dataclass(slots=True)
class Said:
    """A turn as it was said in the end: its message, and why it ended."""

    message: dict[str, Any]
    finish_reason: str | None

    @property
    def calls(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.message.get("tool_calls") or []
        return found

    def calls_only(self, names: frozenset[str]) -> bool:
        """Whether it ended in calls, all of them of tools with these names."""
        if not self.calls or self.finish_reason not in _RUNNABLE:
            return False
        return all((call.get("function") or {}).get("name") in names for call in self.calls)


def said_in(completion: dict[str, Any]) -> Said:
    """What a whole answer says."""
    choices = completion.get("choices") or [{}]
    message = choices[0].get("message") or {}
    known = {name: value for name, value in message.items() if value is not None and value != []}
    return Said({"role": "assistant", **known}, choices[0].get("finish_reason"))


@dataclass(slots=True)
class StreamedTurn:
    """A turn as it comes. Calls are held back as long as all are of tools that the gateway runs,
    text where it may turn out to be no part of the answer (`holds_text`), and the finish always."""

    names: frozenset[str]
    first: bool
    holds_text: bool
    lead: str = ""
    """What stands between the text before this turn and this turn's."""
    _folder: CompletionFolder = field(default_factory=CompletionFolder)
    _held: list[ChatChunk] = field(default_factory=list)
    _shows_calls: bool = False
    _head: dict[str, Any] = field(default_factory=dict)

    def feed(self, batch: Batch) -> list[ChatChunk]:
        """What of these chunks can be seen now."""
        visible: list[ChatChunk] = []
        for chunk in batch.chunks:
            self._folder.add(chunk)
            self._head = self._head or {"id": chunk.id, "created": chunk.created}
            for choice in chunk.choices:
                visible += self._part(chunk, choice)
        return visible

    def _part(self, chunk: ChatChunk, choice: ChunkChoice) -> list[ChatChunk]:
        delta = choice.delta
        calls = delta.tool_calls
        if calls and not self._shows_calls:
            named = (call.function.name for call in calls if call.function is not None)
            self._shows_calls = any(name and name not in self.names for name in named)
        rest = msgspec.structs.replace(delta, tool_calls=None)
        if not self.first:
            rest.role, rest.content = None, rest.content or None
        if rest.content and self.lead:
            rest.content, self.lead = self.lead + rest.content, ""
        shown = self._held_or_shown(_chunk(chunk, choice, rest), hold=self._holds(rest))
        if calls:
            part = _chunk(chunk, choice, Delta(tool_calls=calls), logprobs=False)
            shown += self._held_or_shown(part, hold=not self._shows_calls)
        return shown

    def _holds(self, delta: Delta) -> bool:
        return bool(delta.content) and self.holds_text

    def _held_or_shown(self, chunk: ChatChunk, *, hold: bool) -> list[ChatChunk]:
        choice = chunk.choices[0]
        if choice.delta == _NOTHING and choice.logprobs is None:
            return []
        if hold:
            self._held.append(chunk)
            return []
        if not choice.delta.tool_calls:
            return [chunk]
        held, self._held = self._held, []
        return [*held, chunk]

    def said(self) -> Said:
        return said_in(self._folder.completion())

    def rest(self) -> list[ChatChunk]:
        """What was held back, for a turn that is the last."""
        held, self._held = self._held, []
        return held

    def finish(self, reason: str | None) -> ChatChunk:
        """The chunk that ends the answer."""
        choice = ChunkChoice(
            index=0, delta=Delta(), finish_reason=cast(FinishReason | None, reason)
        )
        return ChatChunk(choices=[choice], **self._head)


def opening(chunk: ChatChunk) -> ChatChunk:
    """What commits an answer that has nothing to show yet."""
    choice = ChunkChoice(index=0, delta=Delta(role="assistant", content=""))
    return ChatChunk(choices=[choice], id=chunk.id, created=chunk.created, model=chunk.model)


def _chunk(
    chunk: ChatChunk, choice: ChunkChoice, delta: Delta, *, logprobs: bool = True
) -> ChatChunk:
    part = ChunkChoice(
        index=choice.index, delta=delta, logprobs=choice.logprobs if logprobs else None
    )
    return ChatChunk(choices=[part], id=chunk.id, created=chunk.created, model=chunk.model)


_NOTHING = Delta()
