"""Reads Ollama's streams: JSON lines in any split to batches of chunks."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamFailed, UpstreamUnreachable
from chat.ndjson import UNREADABLE, LineSplitter, LineTooLong, is_text, one_line
from chat.requests import ChatRequest
from chat.types import (
    Batch,
    ChatChunk,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionDelta,
    ToolCallDelta,
)
from providers.adapters.base import Endpoint
from providers.adapters.credential import without
from providers.adapters.ollama_lines import (
    Call,
    Line,
    Token,
    arguments_of,
    call_id,
    decode,
    decode_lines,
    finish_reason,
    odd_arguments,
    read_logprobs,
    read_usage,
)
from providers.adapters.ollama_request import ANY_ANSWER
from providers.adapters.openai_errors import error_in_band
from providers.emulation.tool_choice import ToolPolicy, no_call

_MOST_WITHHELD = 100_000
"""Chunks kept back of an answer that owes a call."""


class OllamaStreamReader:
    """One upstream stream.

    A failure told or found in the middle of a packet is kept in `failure` until what came before
    it was given away, so that it does not matter how the stream was cut. `done` is set by the line
    that ends the answer.
    """

    def __init__(
        self,
        request: ChatRequest,
        endpoint: Endpoint,
        *,
        policy: ToolPolicy = ANY_ANSWER,
        native: bool = False,
    ) -> None:
        self.done = False
        self.failure: GatewayError | None = None
        self.text_bytes = 0
        self._request = request
        self._endpoint = endpoint
        self._policy = policy
        self._native = native
        self._splitter = LineSplitter()
        self._id = os.urandom(12).hex()
        self._created = int(time.time())
        self._model = endpoint.model
        self._begun = False
        self._calls = 0
        self._withheld: list[ChatChunk] | None = [] if policy.demanded else None

    def feed(self, packet: bytes) -> Batch | None:
        """What a packet brings, or None."""
        try:
            lines = self._splitter.feed(packet)
        except LineTooLong:
            self.failure = UpstreamFailed("The provider sent a line longer than any chunk.")
            return None
        return self._read(lines) if lines else None

    def finish(self) -> Batch | None:
        """Call at the end of the bytes. A stream that was cut off leaves its failure: `stop` is
        never invented (M26)."""
        rest = self._splitter.finish().strip()
        batch = None
        if rest and not (self.done or self.failure):
            try:
                decode(rest)
            except UNREADABLE:
                rest = b""  # half a line
            if rest:
                batch = self._read(rest + b"\n")
        if not (self.done or self.failure):
            self.failure = UpstreamUnreachable(
                "The provider's stream broke off.", kind="network", retryable=True
            )
        return batch

    def _read(self, raw: bytes) -> Batch | None:
        raw = without(raw, self._endpoint.api_key)
        try:
            lines = decode_lines(raw) if is_text(raw) else self._decode_each(raw)
        except UNREADABLE:
            lines = self._decode_each(raw)
        chunks: list[ChatChunk] = []
        used = 0
        for line in lines:
            if line.error is not None:
                self.failure = error_in_band(line.error, self._endpoint)
                break
            used += 1
            self.add(line, chunks)
            if line.done or self.failure:
                break
        if not used:
            return None
        wire = _canonical(raw, used, whole=used == len(lines)) if self._native else None
        return Batch(chunks, wire) if chunks or wire else None

    def _decode_each(self, raw: bytes) -> list[Line]:
        """The lines before the one that cannot be read."""
        lines = []
        for line in filter(None, map(bytes.strip, raw.split(b"\n"))):
            try:
                line.decode()
                lines.append(decode(line))
            except msgspec.ValidationError:
                told = _error_of(line) or "The provider sent a chunk of an unknown shape."
                lines.append(Line(error=told))
                break
            except UNREADABLE:
                lines.append(Line(error="The provider sent a chunk that is not JSON."))
                break
        return lines

    def add(self, line: Line, chunks: list[ChatChunk]) -> None:
        """Puts what a line says to the chunks; sets `done` and `failure`."""
        message = line.message
        text = message.content if message is not None else line.response
        thinking = message.thinking if message is not None else line.thinking
        if not self._begun:
            self._begun = True
            self._model = line.model or self._model
            chunks.append(self._chunk(Delta(role="assistant", content="")))
        if thinking:
            self.text_bytes += len(thinking)
            chunks.append(self._chunk(Delta(reasoning_content=thinking)))
        if text or line.logprobs:
            self.text_bytes += len(text or "")
            chunks.append(self._chunk(Delta(content=text or ""), logprobs=line.logprobs))
        if message is not None and message.tool_calls:
            self._add_calls(message.tool_calls, chunks)
        if line.done:
            self.done = True
            self._end(line, chunks)
        if self._withheld is not None:
            self._withhold(chunks)

    def _add_calls(self, calls: list[Call], chunks: list[ChatChunk]) -> None:
        for call in calls:
            if not self._policy.admits(call.function.name, after=self._calls):
                continue
            try:
                arguments = arguments_of(call.function.arguments)
            except ValueError:
                self.failure = odd_arguments()
                return
            delta = ToolCallDelta(
                index=self._calls,
                id=call_id(call, self._id, self._calls),
                type="function",
                function=FunctionDelta(name=call.function.name, arguments=arguments),
            )
            self.text_bytes += len(arguments)
            self._calls += 1
            chunks.append(self._chunk(Delta(tool_calls=[delta])))

    def _end(self, line: Line, chunks: list[ChatChunk]) -> None:
        usage = read_usage(line, self._request, text_bytes=self.text_bytes)
        if self.failure is not None:
            self.failure.usage = usage
            return
        reason = finish_reason(line.done_reason, called=self._calls > 0)
        chunks.append(self._chunk(Delta(), finish=reason))
        chunks.append(
            ChatChunk([], id=self._chunk_id, created=self._created, model=self._model, usage=usage)
        )

    def _withhold(self, chunks: list[ChatChunk]) -> None:
        """Nothing is shown of an answer that owes a call before the call has come: a refusal must
        still be able to have a status."""
        assert self._withheld is not None
        self._withheld += chunks
        chunks.clear()
        if self._calls:
            chunks += self._withheld
            self._withheld = None
        elif self.failure is None and (self.done or len(self._withheld) > _MOST_WITHHELD):
            self.done = True
            self.failure = no_call()
            self.failure.usage = self._withheld[-1].usage

    @property
    def _chunk_id(self) -> str:
        return f"chatcmpl-{self._id}"

    def _chunk(
        self,
        delta: Delta,
        *,
        finish: FinishReason | None = None,
        logprobs: list[Token] | None = None,
    ) -> ChatChunk:
        choice = ChunkChoice(0, delta, finish, read_logprobs(logprobs) if logprobs else None)
        return ChatChunk([choice], id=self._chunk_id, created=self._created, model=self._model)


def _canonical(raw: bytes, used: int, *, whole: bool) -> bytes:
    """The first `used` lines as the caller gets them: one JSON object and one LF each."""
    if whole and b"\r" not in raw and b"\n\n" not in raw and raw[:1] == b"{":
        return one_line(raw)
    lines = [line for line in map(bytes.strip, raw.split(b"\n")) if line][:used]
    return one_line(b"".join(line + b"\n" for line in lines))


def _error_of(line: bytes) -> Any:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return fields.get("error") if isinstance(fields, dict) else None
