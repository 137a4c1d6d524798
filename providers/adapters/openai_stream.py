"""Reads an OpenAI chat-completion stream: bytes in, batches out, bytes kept where they are right.

A packet that holds whole events in canonical form, each a chunk of the strict shape, is passed on
as it came. Anything else (other framing, odd finish reasons, tool deltas without an index, vendor
objects that would crash an SDK) takes the slow path and is mended or left out; see the table of
SDK behaviour the rules come from: openai 3.54.0 dies of `choices: null` and of a malformed line.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamUnreachable
from chat.ndjson import UNREADABLE, is_json, is_text
from chat.sse import DONE, EventTooLarge, SSEDecoder, SSEEvent, encode_event
from chat.types import FINISH_REASONS, MAX_COUNT, Batch, ChatChunk, has_substance
from providers.adapters.base import Endpoint
from providers.adapters.credential import forms_of, without
from providers.adapters.openai_calls import CallMender
from providers.adapters.openai_errors import error_in_band

_decode = msgspec.json.Decoder(ChatChunk).decode
_decode_list = msgspec.json.Decoder(list[ChatChunk]).decode
_DONE = b"[DONE]"
_FINISH = {
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "max_output_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "safety": "content_filter",
}
_FAILED = frozenset({"abort", "aborted", "cancelled", "error", "insufficient_system_resource"})
"""Not ends but failures, told as if they were: Mistral's and OpenRouter's `error`, vLLM's `abort`,
DeepSeek's last."""


class ChatStreamReader:
    """One upstream stream. `done` is set by `[DONE]`; `finish` judges a stream without it. After a
    batch, `failure` is an error the same packet brought: it does not matter how a stream was cut.
    """

    def __init__(self, endpoint: Endpoint, *, hide_usage: bool) -> None:
        self._endpoint = endpoint
        self._hide_usage = hide_usage
        self._secrets = forms_of(endpoint.api_key)
        self._decoder = SSEDecoder()
        self._calls = CallMender()
        self._has_calls = False
        self._begun: set[int] = set()
        self._is_silent = True
        self._finished: set[int] = set()
        self.failure: GatewayError | None = None
        self.done = False

    def feed(self, packet: bytes) -> Batch | None:
        """What a packet brings, or None. Raises UpstreamError for an error told in band before
        anything else."""
        batch = self._feed_canonical(packet) if self._decoder.clean else None
        if batch is None:
            batch = self._feed_any(packet)
        if self._is_silent:
            self._listen(batch)
        return batch if batch.chunks else None

    def finish(self) -> Batch | None:
        """Call at the end of the bytes. Raises UpstreamUnreachable when the stream was cut off:
        neither `[DONE]` nor a finish reason of every choice came, and `stop` is never invented
        (M26). A stream that says `[DONE]` and no reason is passed on without one."""
        batch = self._collect(
            [
                event
                for event in self._decoder.finish()
                if event.data.strip() == _DONE or is_json(event.data)  # else half an event
            ]
        )
        if self._is_silent:
            self._listen(batch)
        ended = self._begun and self._begun <= self._finished
        if not (self.done or self.failure or ended):
            if not batch.chunks:
                raise _broken_off()
            self.failure = _broken_off()
        return batch if batch.chunks else None

    def _listen(self, batch: Batch) -> None:
        """An upstream that says nothing, and not why, has failed, whatever it ends with (M27)."""
        self._is_silent = not any(map(has_substance, batch.chunks))
        if self._is_silent and self.done and self.failure is None:
            self.failure = UpstreamFailed("The provider's stream was empty.", retryable=True)

    def _feed_canonical(self, packet: bytes) -> Batch | None:
        """The fast path; None when the packet is not wholly canonical.

        One decoder call for all events: a call for each, and a look at each event's bytes, cost
        more than what they found. The counts hold every event to one object on one line.
        """
        done = packet.endswith(DONE)
        if done:
            packet = packet[: -len(DONE)]
        for secret in self._secrets:
            if secret in packet:
                return None
        if not is_text(packet):
            return None
        chunks = _decode_canonical(packet) if packet else []
        if chunks is None:
            return None
        bare = False
        for chunk in chunks:
            if chunk.error is not None:
                return None
            if not chunk.choices:
                bare = True
            for choice in chunk.choices:
                if choice.delta.tool_calls is not None:
                    self._has_calls = True
                if choice.finish_reason is not None:
                    self._finished.add(choice.index)
                self._begun.add(choice.index)
        if self._has_calls and not self._calls.accepts(chunks):
            return None
        if bare and self._hide_usage:
            events = zip(packet[:-2].split(b"\n\n"), chunks, strict=True)
            packet = b"".join(event + b"\n\n" for event, chunk in events if _is_shown(chunk))
        self.done = done
        return Batch(chunks, packet)

    def _feed_any(self, packet: bytes) -> Batch:
        try:
            return self._collect(self._decoder.feed(packet))
        except EventTooLarge:
            raise UpstreamFailed("The provider sent an event larger than any chunk.") from None

    def _collect(self, events: list[SSEEvent]) -> Batch:
        chunks: list[ChatChunk] = []
        wire: list[bytes] = []
        for event in events:
            if self.done:
                break
            data = without(event.data.strip(), self._endpoint.api_key)
            if data == _DONE:
                self.done = True
                break
            try:
                chunk, data = self._read(data, event.type)
            except UpstreamError as error:
                if not chunks:
                    raise
                self.failure = error  # told after what came before it
                break
            if chunk is None:
                continue
            chunks.append(chunk)
            for choice in chunk.choices:
                if choice.finish_reason is not None:
                    self._finished.add(choice.index)
                self._begun.add(choice.index)
            if not self._hide_usage or _is_shown(chunk):
                wire.append(encode_event(data))
        return Batch(chunks, b"".join(wire))

    def _read(self, data: bytes, event_type: str) -> tuple[ChatChunk | None, bytes]:
        try:
            chunk = _decode(data)
            if (
                chunk.error is None
                and event_type != "error"
                and b"\n" not in data
                and is_text(data)
                and self._calls.accepts((chunk,))
            ):
                return chunk, data
        except UNREADABLE:
            pass
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise UpstreamFailed("The provider sent a chunk that is not JSON.") from None
        mended = self._mend(fields, event_type)
        if mended is None:
            return None, b""
        try:
            data = orjson.dumps(mended)
            return _decode(data), data
        except (TypeError, *UNREADABLE):  # or nested past what a writer takes
            raise UpstreamFailed("The provider sent a chunk of an unknown shape.") from None

    def _mend(self, fields: Any, event_type: str) -> dict[str, Any] | None:
        """A chunk in the strict shape, or None for an object that is no chunk."""
        if not isinstance(fields, dict):
            return None
        error = fields.get("error")
        if error is None and event_type == "error":
            error = fields
        if error is not None:
            raise error_in_band(error, self._endpoint)
        choices = fields.get("choices")
        if not isinstance(choices, list):
            if not isinstance(fields.get("usage"), dict):
                return None
            choices = []
        fields["choices"] = [
            _mend_choice(choice, at)
            for at, choice in enumerate(choices)
            if isinstance(choice, dict)
        ]
        for choice in fields["choices"]:
            self._has_calls = self._has_calls or bool(choice["delta"].get("tool_calls"))
            self._calls.mend(choice)
        mend_usage(fields)
        return fields


def _is_shown(chunk: ChatChunk) -> bool:
    """Whether a chunk is more than the usage, which is hidden from a caller who did not ask. Azure
    tells its content filter's findings in a chunk without choices."""
    return bool(chunk.choices) or chunk.usage is None


def _broken_off() -> UpstreamUnreachable:
    return UpstreamUnreachable("The provider's stream broke off.", kind="network", retryable=True)


def _decode_canonical(packet: bytes) -> list[ChatChunk] | None:
    """The chunks of whole `data: {…}` events in canonical framing, else None."""
    if not (packet.startswith(b"data: {") and packet.endswith(b"}\n\n")) or b"\r" in packet:
        return None
    events = packet.split(b"}\n\ndata: {")
    if packet.count(b"\n") != 2 * len(events):
        return None
    try:
        chunks = _decode_list(b"[%b]" % b"},{".join(events)[6:-2])
    except UNREADABLE:
        return None
    return chunks if len(chunks) == len(events) else None


def mend_usage(fields: dict[str, Any]) -> None:
    """Drops what is not a count from a usage object, so that the rest of it still is read."""
    usage = fields.get("usage")
    if not isinstance(usage, dict):
        fields.pop("usage", None)
        return
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens"):
        if name in usage:
            usage[name] = count_of(usage[name])
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        parts = usage.get(name)
        if isinstance(parts, dict):
            usage[name] = {key: count_of(value) for key, value in parts.items()}
        elif parts is not None:
            usage[name] = None


def count_of(value: Any) -> int:
    """A number of tokens, 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if -MAX_COUNT <= value <= MAX_COUNT else 0


def legal_finish(reason: Any) -> str | None:
    """One of OpenAI's five finish reasons; an unknown one ends as `stop`, as its sender meant.
    Raises UpstreamFailed for one that tells of a failure: that is no end (M26)."""
    if reason is None or (isinstance(reason, str) and reason in FINISH_REASONS):
        return reason
    word = str(reason).lower()
    if word in _FAILED:
        raise UpstreamFailed("The provider's model failed while it answered.", retryable=True)
    return _FINISH.get(word, "stop")


def _mend_choice(choice: dict[str, Any], at: int) -> dict[str, Any]:
    if type(choice.get("index")) is not int:
        choice["index"] = at
    choice["finish_reason"] = legal_finish(choice.get("finish_reason") or None)
    delta = choice["delta"] if isinstance(choice.get("delta"), dict) else {}
    choice["delta"] = delta
    if isinstance(delta.get("content"), list):
        text_of_parts(delta)
    mend_calls(delta)
    mend_logprobs(choice)
    for position, call in enumerate(delta.get("tool_calls") or ()):
        if type(call.get("index")) is not int:
            call["index"] = position
    return choice


def mend_logprobs(choice: dict[str, Any]) -> None:
    """Drops what is not lists of tokens."""
    told = choice.get("logprobs")
    if told is not None:
        kept = told.items() if isinstance(told, dict) else ()
        choice["logprobs"] = {key: value for key, value in kept if isinstance(value, list)} or None


def mend_calls(message: dict[str, Any]) -> None:
    """Drops what is no tool call, and writes arguments that came as an object."""
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        del message["tool_calls"]
        return
    message["tool_calls"] = calls = [call for call in calls if isinstance(call, dict)]
    for call in calls:
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict | list):
            with contextlib.suppress(TypeError):  # nested past what a writer takes
                function["arguments"] = orjson.dumps(function["arguments"]).decode()


def text_of_parts(message: dict[str, Any]) -> None:
    """Content as parts (Mistral's reasoning models) becomes text and `reasoning_content`."""
    parts = [part for part in message["content"] if isinstance(part, dict)]
    message["content"] = "".join(_texts(part) for part in parts if part.get("type") != "thinking")
    thought = "".join(_texts(part) for part in parts if part.get("type") == "thinking")
    if thought:
        message["reasoning_content"] = thought


def _texts(part: dict[str, Any]) -> str:
    inner = part.get("thinking") if part.get("type") == "thinking" else part.get("text")
    if isinstance(inner, list):
        return "".join(_texts(each) for each in inner if isinstance(each, dict))
    return inner if isinstance(inner, str) else ""
