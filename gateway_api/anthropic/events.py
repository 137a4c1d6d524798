"""Chunks as events of this wire.

One block is open at a time, indices are contiguous, and every delta fits the block it is for: the
Python SDK drops a delta of another type silently, and other clients give up (M36). OpenAI's chunks
promise less: calls may come by turns. What comes for a block while a tool call before it is
unfinished waits for that; everything else is passed on as it comes (M37).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from chat.errors import UpstreamFailed
from chat.sse import MAX_EVENT_BYTES, encode_event
from chat.types import Batch, Delta, TokenCounts, ToolCallDelta, Usage, count_tokens
from gateway_api.anthropic.message import new_call_id, new_message_id, read_arguments
from gateway_api.anthropic.usage import stop_fields, usage_fields

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
_TEXT = _DELTA + b'{"type":"text_delta","text":%b}}\n\n'
_THINKING = _DELTA + b'{"type":"thinking_delta","thinking":%b}}\n\n'
_SIGNATURE = _DELTA + b'{"type":"signature_delta","signature":%b}}\n\n'
_INPUT = _DELTA + b'{"type":"input_json_delta","partial_json":%b}}\n\n'
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'

_FORMATS = {"text": _TEXT, "thinking": _THINKING, "tool_use": _INPUT}
Kind = Literal["text", "thinking", "redacted_thinking", "tool_use"]


@dataclass(slots=True)
class _Block:
    """A content block. `index` is -1 until it is opened."""

    kind: Kind
    start: dict[str, Any]
    index: int = -1
    closed: bool = False
    waiting: list[bytes] = field(default_factory=list)
    """JSON strings of deltas that came before the block could be opened."""
    signature: str = ""
    arguments: list[str] = field(default_factory=list)
    """What came of a tool call's arguments, to know whether they are whole."""
    told: bool = False
    """Whether the client has been told any of them."""
    size: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing more can belong to it, once another block has begun."""
        if self.kind != "tool_use":
            return True
        last = self.arguments[-1] if self.arguments else ""
        return last.rstrip().endswith("}") and self.is_legal

    @property
    def is_legal(self) -> bool:
        return self.kind != "tool_use" or read_arguments("".join(self.arguments)) is not None


class EventEncoder:
    """One answer. `feed` gives the events of a batch, `finish` the last ones."""

    def __init__(self, *, model: str, stops: list[str]) -> None:
        self._model, self._stops = model, stops
        self._out: list[bytes] = []
        self._started = False
        self._indices = 0
        self._blocks: list[_Block] = []
        """The open block, and behind it those that wait for it."""
        self._calls: dict[int, _Block] = {}
        self._finish: str | None = None
        self._matched: Any = None
        self._called = False

    def feed(self, batch: Batch) -> bytes:
        """Raises UpstreamFailed for tool calls that no client could read."""
        for chunk in batch.chunks:
            if not self._started:
                self._start(chunk.model, chunk.usage)
            for choice in chunk.choices:
                if choice.index != 0:
                    continue
                self._add(choice.delta)
                if choice.finish_reason is not None:
                    self._finish, self._matched = choice.finish_reason, choice.stop_reason
        return self._taken()

    def finish(self, counts: TokenCounts) -> bytes:
        """Raises UpstreamFailed for a tool call that ends in the middle of its arguments although
        the answer does not say that it was cut: it would be read as a call without any."""
        if not self._started:
            self._start("", None)
        while self._blocks:
            block = self._blocks[0]
            if not block.is_legal and self._finish not in ("length", "content_filter"):
                raise _broken_call()
            self._close_first()
        stop = stop_fields(
            self._finish, matched=self._matched, stops=self._stops, called=self._called
        )
        self._event("message_delta", {"delta": stop, "usage": usage_fields(counts)})
        self._out.append(_STOP)
        return self._taken()

    def _taken(self) -> bytes:
        taken, self._out = self._out, []
        return b"".join(taken)

    def _event(self, kind: str, fields: dict[str, Any]) -> None:
        self._out.append(encode_event(orjson.dumps({"type": kind, **fields}), kind))

    def _start(self, model: str, usage: Usage | None) -> None:
        self._started = True
        message: dict[str, Any] = {
            "id": new_message_id(),
            "type": "message",
            "role": "assistant",
            "model": model or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_fields(count_tokens(usage) if usage else TokenCounts()),
        }
        self._event("message_start", {"message": message})

    def _add(self, delta: Delta) -> None:
        if thought := delta.reasoning_content or delta.reasoning:
            self._write(self._latest("thinking"), thought)
        for block in delta.thinking_blocks or ():
            self._add_thought(block)
        if delta.content:
            self._write(self._latest("text"), delta.content)
        if delta.refusal:
            self._write(self._latest("text"), delta.refusal)
        for call in delta.tool_calls or ():
            self._add_call(call)
        if delta.function_call:  # what calls were before they had ids
            self._add_call(ToolCallDelta(index=0, function=delta.function_call))

    def _latest(self, kind: Kind) -> _Block:
        """The block that more of this kind goes to: the newest, or a new one behind it."""
        newest = self._blocks[-1] if self._blocks else None
        if newest is not None and newest.kind == kind and not newest.signature:
            return newest
        start: dict[str, Any] = {"type": kind, kind: ""}
        if kind == "thinking":
            start["signature"] = ""
        return self._begin(_Block(kind, start))

    def _add_thought(self, whole: dict[str, Any]) -> None:
        """A whole thinking block: its text has been streamed, its signature has not."""
        if whole.get("type") != "thinking":
            self._begin(_Block("redacted_thinking", whole))
            return
        newest = self._blocks[-1] if self._blocks else None
        if newest is None or newest.kind != "thinking" or newest.signature:
            newest = self._latest("thinking")
            if text := whole.get("thinking"):
                self._write(newest, text)
        newest.signature = str(whole.get("signature") or "")
        if newest.signature and newest.index >= 0:
            self._out.append(_SIGNATURE % (newest.index, orjson.dumps(newest.signature)))

    def _add_call(self, delta: ToolCallDelta) -> None:
        function = delta.function
        name = function.name if function else None
        call = self._calls.get(delta.index)
        if call is None or (name and delta.id and delta.id != call.start["id"]):
            # A second id at one index is a second call: some servers number none of theirs.
            if not name:
                raise UpstreamFailed("The provider sent a tool call without a name.")
            start = {
                "type": "tool_use",
                "id": delta.id or new_call_id(),
                "name": name,
                "input": {},
            }
            call = self._calls[delta.index] = self._begin(_Block("tool_use", start))
            self._called = True
        if function and function.arguments:
            self._write_arguments(call, function.arguments)

    def _write_arguments(self, call: _Block, fragment: str) -> None:
        if call.closed:
            if fragment.strip():
                raise _broken_call()
            return
        call.size += len(fragment)
        if call.size > MAX_EVENT_BYTES:
            raise UpstreamFailed("The provider sent a tool call larger than any.")
        call.arguments.append(fragment)
        if not call.told:
            # Blanks alone make the client fail, and some servers write `null` for no arguments.
            fragment = "".join(call.arguments).lstrip()
            call.told = not "null".startswith(fragment)
        if call.told:
            self._write(call, fragment)
        self._advance()

    def _write(self, block: _Block, text: str) -> None:
        encoded = orjson.dumps(text)
        if block.index < 0:
            block.waiting.append(encoded)
        else:
            self._out.append(_FORMATS[block.kind] % (block.index, encoded))

    def _begin(self, block: _Block) -> _Block:
        self._blocks.append(block)
        if len(self._blocks) == 1:
            self._open_first()
        else:
            self._advance()
        return block

    def _advance(self) -> None:
        """Closes what is whole, as far as something waits behind it."""
        while len(self._blocks) > 1 and self._blocks[0].is_whole:
            self._close_first()

    def _close_first(self) -> None:
        block = self._blocks.pop(0)
        block.closed = True
        self._out.append(_BLOCK_STOP % block.index)
        if self._blocks:
            self._open_first()

    def _open_first(self) -> None:
        block = self._blocks[0]
        block.index = self._indices
        self._indices += 1
        self._event("content_block_start", {"index": block.index, "content_block": block.start})
        for encoded in block.waiting:
            self._out.append(_FORMATS[block.kind] % (block.index, encoded))
        if block.signature:
            self._out.append(_SIGNATURE % (block.index, orjson.dumps(block.signature)))
        block.waiting.clear()


def _broken_call() -> UpstreamFailed:
    return UpstreamFailed("The provider sent a tool call whose arguments are not a JSON object.")
