"""Reads an Anthropic stream: bytes in, batches out, bytes kept where the caller speaks the wire.

A packet of whole events in canonical framing takes one decoder call, and is passed on as it came.
Anything else is read event by event and framed anew. Chunks are made either way: the ledger reads
them. A stream ends with `message_stop`; one that does not was cut off, whatever came before (M26).
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamUnreachable
from chat.ndjson import UNREADABLE, is_json, is_text
from chat.sse import EventTooLarge, SSEDecoder, SSEEvent, encode_event
from chat.types import (
    Batch,
    ChatChunk,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionDelta,
    ToolCallDelta,
)
from providers.adapters.anthropic_errors import error_in_band
from providers.adapters.anthropic_events import (
    KNOWN_DELTAS,
    KNOWN_EVENTS,
    BlockDelta,
    BlockStart,
    BlockStop,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    decode_canonical,
    decode_event,
)
from providers.adapters.anthropic_usage import (
    PAUSED,
    Tokens,
    finish_of,
    refusal_text,
    refuse_uncalled,
)
from providers.adapters.base import Endpoint
from providers.adapters.credential import forms_of, without

_OBJECT = "chat.completion.chunk"
_MOST_WITHHELD = 20_000


class PausedChoice(ChunkChoice, gc=False):
    """The end of a turn that the upstream paused, which OpenAI has no word for."""

    native_finish_reason: str = PAUSED


class MessageStreamReader:
    """One upstream stream. After a batch, `failure` is an error the same packet brought, and `done`
    says that the message is whole.

    `keep_wire` is for a caller on Anthropic's wire, `must_call` for an answer that owes a call
    (`anthropic_request.Payload`).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        keep_wire: bool,
        must_call: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._secrets = forms_of(endpoint.api_key)
        self._keep_wire = keep_wire
        self._decoder = SSEDecoder()
        self._id = ""
        self._model = ""
        self._created = int(time.time())
        self._tokens: Tokens | None = None
        self._started = False
        self._calls: dict[int, _Call] = {}
        self._thoughts: dict[int, _Thought] = {}
        self._call_count = 0
        self._stop_reason: str | None = None
        self._finish: FinishReason | None = None
        self._withheld: list[ChatChunk] | None = [] if must_call else None
        self.failure: GatewayError | None = None
        self.done = False

    def feed(self, packet: bytes) -> Batch | None:
        """What a packet brings, or None."""
        events = decode_canonical(packet) if self._decoder.clean else None
        for secret in self._secrets:
            if secret in packet:
                events = None
        if events is not None and not is_text(packet):
            events = None
        if events is None:
            return self._feed_any(packet)
        chunks: list[ChatChunk] = []
        for at, event in enumerate(events):
            self._read(event, chunks)
            if self.done and at + 1 < len(events):
                packet = b"".join(each + b"\n\n" for each in packet.split(b"\n\n")[: at + 1])
                break
        return self._batch(chunks, packet)

    def finish(self) -> Batch | None:
        """Call at the end of the bytes; a stream without `message_stop` leaves its `failure`."""
        last = [event for event in self._decoder.finish() if is_json(event.data)]  # not half of one
        batch = self._collect(last)
        if not self.done and self.failure is None:
            self.failure = UpstreamUnreachable(
                "The provider's stream broke off.", kind="network", retryable=True
            )
        return batch

    def _batch(self, chunks: list[ChatChunk], wire: bytes) -> Batch | None:
        if self._keep_wire:
            return Batch(chunks, wire) if wire else None
        if self._withheld is not None:
            chunks = self._owed(self._withheld + chunks)
        return Batch(chunks) if chunks else None

    def _owed(self, chunks: list[ChatChunk]) -> list[ChatChunk]:
        """Nothing is shown of an answer that owes a call before the call, or another end than
        `stop`, has come: until then its failure can still have a status."""
        ended_otherwise = self._finish not in (None, "stop")
        if self._call_count or ended_otherwise or self.failure is not None:
            self._withheld = None
            return chunks
        self._withheld = chunks
        if self.done or len(chunks) > _MOST_WITHHELD:
            self.failure = refuse_uncalled(self._tokens)
        return []

    def _feed_any(self, packet: bytes) -> Batch | None:
        try:
            return self._collect(self._decoder.feed(packet))
        except EventTooLarge:
            raise UpstreamFailed("The provider sent an event larger than any chunk.") from None

    def _collect(self, events: list[SSEEvent]) -> Batch | None:
        chunks: list[ChatChunk] = []
        wire: list[bytes] = []
        for each in events:
            if self.done:
                break
            try:
                event, data, kind = _read_event(each, self._endpoint)
                if event is not None:
                    self._read(event, chunks)
            except UpstreamError as error:
                self.failure = error  # told after what came before it
                break
            if kind:
                wire.append(encode_event(data, kind))
        return self._batch(chunks, b"".join(wire))

    # --- events to chunks -----------------------------------------------------------------------

    def _read(self, event: Event, chunks: list[ChatChunk]) -> None:
        if isinstance(event, BlockDelta):
            delta = self._read_delta(event)
        elif isinstance(event, BlockStart):
            delta = self._start_block(event)
        elif isinstance(event, BlockStop):
            delta = self._stop_block(event)
        elif isinstance(event, MessageStart):
            delta = self._start(event)
        elif isinstance(event, MessageDelta):
            self._end(event, chunks)
            return
        elif isinstance(event, MessageStop):
            self._stop(chunks)
            return
        else:
            return
        if delta is not None:
            chunks.append(self._chunk(ChunkChoice(0, delta)))

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk([choice], self._id, _OBJECT, self._created, self._model)

    def _start(self, event: MessageStart) -> Delta | None:
        message = event.message
        if self._started:
            return None
        self._started = True
        self._id, self._model, self._tokens = message.id, message.model, message.usage
        return Delta(role="assistant", content="")

    def _read_delta(self, event: BlockDelta) -> Delta | None:
        delta = event.delta
        if isinstance(delta, TextDelta):
            return Delta(content=delta.text)
        if isinstance(delta, ThinkingDelta):
            if (thought := self._thoughts.get(event.index)) is not None:
                thought.texts.append(delta.thinking)
            return Delta(reasoning_content=delta.thinking)
        if isinstance(delta, InputDelta):
            return self._add_input(event.index, delta.partial_json)
        thought = self._thoughts.get(event.index)
        if thought is not None and isinstance(delta, SignatureDelta):
            thought.signatures.append(delta.signature)
        return None

    def _add_input(self, index: int, fragment: str) -> Delta | None:
        if not fragment:
            return None
        call = self._calls.get(index)
        if call is None:
            return None
        call.begun = True
        function = FunctionDelta(arguments=fragment)
        return Delta(tool_calls=[ToolCallDelta(call.position, function=function)])

    def _start_block(self, event: BlockStart) -> Delta | None:
        block = event.content_block
        kind = block.get("type")
        if kind == "text":
            return Delta(content=told) if (told := _string(block, "text")) else None
        if kind == "tool_use":
            return self._start_call(event.index, block)
        if kind == "thinking" and not self._keep_wire:
            self._thoughts[event.index] = _Thought(block)
        if kind == "thinking" and (told := _string(block, "thinking")):
            return Delta(reasoning_content=told)
        if kind == "redacted_thinking":
            return Delta(thinking_blocks=[block])
        return None  # server tools run upstream: the caller sees what the model says of them

    def _start_call(self, index: int, block: dict[str, Any]) -> Delta:
        name = str(block.get("name") or "")
        call = self._calls[index] = _Call(self._call_count, block.get("input") or {})
        self._call_count += 1
        function = FunctionDelta(name=name, arguments="")
        opened = ToolCallDelta(call.position, str(block.get("id") or ""), "function", function)
        return Delta(tool_calls=[opened])

    def _stop_block(self, event: BlockStop) -> Delta | None:
        thought = self._thoughts.pop(event.index, None)
        if thought is not None:
            return Delta(thinking_blocks=[thought.block()])
        call = self._calls.pop(event.index, None)
        if call is None or call.begun:
            return None
        # A call without input has no fragments, and clients parse what they collected.
        function = FunctionDelta(arguments=msgspec.json.encode(call.input).decode())
        return Delta(tool_calls=[ToolCallDelta(call.position, function=function)])

    def _end(self, event: MessageDelta, chunks: list[ChatChunk]) -> None:
        if event.usage is not None:
            if self._tokens is None:
                self._tokens = event.usage
            else:
                self._tokens.grow(event.usage)
        reason = event.delta.stop_reason
        if reason is None or self._stop_reason is not None:
            return
        self._stop_reason = reason
        finish = self._finish = finish_of(reason, called=self._call_count > 0)
        refusal = refusal_text(event.delta.stop_details) if reason == "refusal" else None
        delta = Delta(refusal=refusal)
        choice = (
            PausedChoice(0, delta, finish) if reason == PAUSED else ChunkChoice(0, delta, finish)
        )
        chunks.append(self._chunk(choice))

    def _stop(self, chunks: list[ChatChunk]) -> None:
        if self._stop_reason is None and not self._keep_wire:
            self.failure = UpstreamFailed("The provider's answer does not say why it ended.")
            return
        if self._tokens is not None:
            usage = self._tokens.usage()
            chunks.append(ChatChunk([], self._id, _OBJECT, self._created, self._model, usage))
        self.done = True


class _Call:
    """An open tool call: its place among the caller's, and the input its start already held."""

    __slots__ = ("begun", "input", "position")

    def __init__(self, position: int, given: Any) -> None:
        self.position = position
        self.input = given
        self.begun = False


class _Thought:
    """A thinking block on its way, to be handed over whole."""

    __slots__ = ("_start", "signatures", "texts")

    def __init__(self, start: dict[str, Any]) -> None:
        self._start = start
        self.texts = [_string(start, "thinking")]
        self.signatures = [_string(start, "signature")]

    def block(self) -> dict[str, Any]:
        block = {**self._start, "thinking": "".join(self.texts)}
        signature = "".join(self.signatures)
        if signature or "signature" in block:
            block["signature"] = signature
        return block


def _string(block: dict[str, Any], name: str) -> str:
    value = block.get(name)
    return value if isinstance(value, str) else ""


def _read_event(told: SSEEvent, endpoint: Endpoint) -> tuple[Event | None, bytes, str]:
    """An event that came in any framing: decoded (None for one we need not know), and its data and
    name for a caller on the same wire (an empty name: not to be shown). Raises UpstreamError."""
    data = without(told.data.strip(), endpoint.api_key)
    if b"\n" in data or not is_text(data):
        data = _written(_parsed(data))
    try:
        event = decode_event(data)
    except UNREADABLE:
        return _read_odd(told, data, endpoint)
    if told.type == "error":
        raise error_in_band(data, endpoint)
    return event, data, event.LINE[7:].decode()


def _read_odd(told: SSEEvent, data: bytes, endpoint: Endpoint) -> tuple[Event | None, bytes, str]:
    if data == b"[DONE]":  # some compatible servers end with OpenAI's word
        return None, b"", ""
    fields = _parsed(data)
    kind = fields.get("type") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or told.type == "error" or kind == "error":
        raise error_in_band(data, endpoint)
    if not isinstance(kind, str) or not kind:
        if not told.type:
            return None, b"", ""
        fields["type"] = kind = told.type
        data = _written(fields)
    if kind not in KNOWN_EVENTS or _is_new_delta(fields):
        return None, data, kind
    return _decode_mended(fields), data, kind


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("The provider sent an event that is not JSON.") from None


def _written(fields: Any) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:
        raise UpstreamFailed("The provider sent an event nested too deeply.") from None


def _is_new_delta(fields: dict[str, Any]) -> bool:
    delta = fields.get("delta")
    if fields["type"] != "content_block_delta" or not isinstance(delta, dict):
        return False
    kind = delta.get("type")
    return isinstance(kind, str) and kind not in KNOWN_DELTAS


def _decode_mended(fields: dict[str, Any]) -> Event:
    """An event of a known type in a shape of its own, without the usage that could not be read."""
    for holder in (fields, fields.get("message")):
        if isinstance(holder, dict):
            holder.pop("usage", None)
    try:
        return decode_event(_written(fields))
    except UNREADABLE:
        raise UpstreamFailed("The provider sent an event of an unknown shape.") from None
