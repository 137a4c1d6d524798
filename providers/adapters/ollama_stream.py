"""Reads Ollama's answers: JSON lines in any split to batches of chunks, a whole answer to a reply.

Shapes follow Ollama's `docs/api.md` and recorded traffic: a line may hold text, thinking or whole
tool calls; the one with `done: true` ends the answer and counts tokens, without `prompt_eval_count`
where the prompt was cached, and may hold the last text too.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec
import orjson

from chat.errors import GatewayError, ToolChoiceNotMet, UpstreamFailed, UpstreamUnreachable
from chat.folding import CompletionFolder
from chat.ndjson import UNREADABLE, LineSplitter, LineTooLong, one_line
from chat.types import (
    Batch,
    ChatChunk,
    ChatRequest,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionDelta,
    Reply,
    ToolCallDelta,
    Usage,
)
from providers.adapters.base import Endpoint
from providers.adapters.ollama_request import ANY_ANSWER, ToolPolicy
from providers.adapters.openai_errors import error_in_band

BYTES_PER_TOKEN = 4
"""For counts a server leaves out."""


class _Function(msgspec.Struct, gc=False):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct, gc=False):
    function: _Function
    id: str | None = None
    """Servers since 0.12 give one."""


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class Line(msgspec.Struct, gc=False):
    """A line of `/api/chat`; or of `/api/generate`, which has `response` for a message."""

    model: str = ""
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    logprobs: list[dict[str, Any]] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Line).decode
_decode_lines = msgspec.json.Decoder(Line).decode_lines


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
        self._id = uuid.uuid4().hex
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
                _decode(rest)
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
        try:
            lines = _decode_lines(raw)
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
                lines.append(_decode(line))
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

    def _add_calls(self, calls: list[_Call], chunks: list[ChatChunk]) -> None:
        for call in calls:
            if self._policy.single and self._calls:
                return
            try:
                arguments = _arguments(call.function.arguments)
            except ValueError:
                self.failure = UpstreamFailed(
                    "The provider sent a tool call whose arguments are no JSON object."
                )
                return
            if self._policy.demanded and call.function.name not in self._policy.demanded:
                continue
            delta = ToolCallDelta(
                index=self._calls,
                id=call.id or f"call_{self._id[:20]}{self._calls:04d}",
                type="function",
                function=FunctionDelta(name=call.function.name, arguments=arguments),
            )
            self.text_bytes += len(arguments)
            self._calls += 1
            chunks.append(self._chunk(Delta(tool_calls=[delta])))

    def _end(self, line: Line, chunks: list[ChatChunk]) -> None:
        reason = finish_reason(line.done_reason, called=self._calls > 0)
        chunks.append(self._chunk(Delta(), finish=reason))
        usage = read_usage(line, self._request, text_bytes=self.text_bytes)
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
        elif self.done or len(self._withheld) > _MOST_WITHHELD:
            self.done = True
            self.failure = ToolChoiceNotMet(
                "The model did not call a tool, which `tool_choice` demands.", param="tool_choice"
            )

    @property
    def _chunk_id(self) -> str:
        return f"chatcmpl-{self._id}"

    def _chunk(
        self,
        delta: Delta,
        *,
        finish: FinishReason | None = None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> ChatChunk:
        choice = ChunkChoice(0, delta, finish, read_logprobs(logprobs) if logprobs else None)
        return ChatChunk([choice], id=self._chunk_id, created=self._created, model=self._model)


_MOST_WITHHELD = 100_000


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


def _arguments(raw: msgspec.Raw) -> str:
    """A call's arguments as OpenAI's JSON string. Raises ValueError for what is no object."""
    text = bytes(raw).strip()
    if text.startswith(b'"'):  # some servers with this API keep OpenAI's form
        text = msgspec.json.decode(text, type=str).encode().strip() or b"{}"
        msgspec.json.decode(text, type=dict[str, Any])
    if text == b"null":
        text = b"{}"
    if not text.startswith(b"{"):
        raise ValueError("arguments are no object")
    return text.decode()


def finish_reason(done_reason: str | None, *, called: bool) -> FinishReason:
    """OpenAI's word for the end `done: true` tells of; a call makes it `tool_calls` (M29)."""
    if done_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def read_usage(line: Line, request: ChatRequest, *, text_bytes: int) -> Usage:
    """The counts of the last line; a missing one is estimated, and the whole marked so."""
    prompt, output = line.prompt_eval_count, line.eval_count
    usage = Usage(
        prompt_tokens=max(1, request.size // BYTES_PER_TOKEN) if prompt is None else prompt,
        completion_tokens=-(-text_bytes // BYTES_PER_TOKEN) if output is None else output,
    )
    usage.total_tokens = usage.prompt_tokens + (usage.completion_tokens or 0)
    if prompt is None or output is None:
        usage.estimated = True
    return usage


def read_logprobs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Ollama's list of tokens as OpenAI's `logprobs` object."""
    return {
        "content": [
            {
                **_token(entry),
                "top_logprobs": [_token(each) for each in entry.get("top_logprobs") or ()],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    token = str(entry.get("token", ""))
    known = entry.get("bytes")
    return {
        "token": token,
        "logprob": entry.get("logprob", 0.0),
        "bytes": known if isinstance(known, list) else list(token.encode()),
    }


def read_reply(
    body: bytes,
    request: ChatRequest,
    endpoint: Endpoint,
    *,
    policy: ToolPolicy = ANY_ANSWER,
    native: bool = False,
) -> Reply:
    """A non-streamed answer, as itself for a caller on the same wire. Raises GatewayError."""
    try:
        line = _decode(body)
    except UNREADABLE:
        raise UpstreamFailed("The provider's answer could not be read.", retryable=True) from None
    reader = OllamaStreamReader(request, endpoint, policy=policy, native=native)
    folder = CompletionFolder()
    chunks: list[ChatChunk] = []
    if line.error is not None:
        raise error_in_band(line.error, endpoint)
    if not line.done:
        raise UpstreamFailed("The provider's answer holds no completion.")
    reader.add(line, chunks)
    if reader.failure is not None:
        raise reader.failure
    for chunk in chunks:
        folder.add(chunk)
    completion = folder.completion()
    return Reply(
        body=body if native else orjson.dumps(completion),
        finish_reason=completion["choices"][0]["finish_reason"],
        usage=folder.usage,
        text_bytes=reader.text_bytes,
        wire="ollama" if native else "openai",
    )
