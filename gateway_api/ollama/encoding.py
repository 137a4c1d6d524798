"""Chunks and completions in Ollama's words: JSON lines, the last of them with the counts.

A tool call is whole in one line, its arguments an object: OpenAI's fragments are gathered until the
answer ends, because any of them may go on until then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamFailed
from chat.ndjson import one_line
from chat.types import Batch, ToolCallDelta, encode
from gateway_api.exchange import Exchange


class _Function(msgspec.Struct, gc=False):
    name: str
    arguments: msgspec.Raw
    index: int = 0


class _Call(msgspec.Struct, gc=False):
    id: str
    function: _Function


class _Message(msgspec.Struct, gc=False, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[_Call] = []


# `done` and `content` are always there: no defaults, or `omit_defaults` leaves them out.
class _Line(msgspec.Struct, gc=False, omit_defaults=True):
    model: str
    created_at: str
    done: bool
    message: _Message | None = None
    response: str | None = None
    thinking: str = ""
    logprobs: list[dict[str, Any]] | None = None
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


_TIME, _TEXT = "~time~", "~text~"
"""What stands where a line's time and text go."""


class LineEncoder:
    """The lines of one answer by `model`, the name the caller asked for. `generate` gives those of
    `/api/generate`, which have no message."""

    def __init__(self, model: str, *, generate: bool) -> None:
        self._model = model
        self._generate = generate
        self._calls: dict[int, _Gathered] = {}
        self._done_reason: str | None = None
        # Most lines hold text only, and a struct for each of those cost as much as all the rest.
        whole = encode(self._line(_TEXT, "", now=_TIME))
        self._before_time, _, rest = whole.rpartition(_TIME.encode())
        self._after_time, _, self._after_text = rest.partition(encode(_TEXT))

    def encode(self, batch: Batch) -> bytes:
        """The lines a batch makes; none for what is gathered."""
        lines: list[bytes] = []
        now = rfc3339()
        before_text = self._before_time + now.encode() + self._after_time
        for chunk in batch.chunks:
            for choice in chunk.choices:
                delta = choice.delta
                content = delta.content or delta.refusal or ""
                thinking = delta.reasoning_content or delta.reasoning or ""
                if thinking or choice.logprobs:
                    logprobs = tell_logprobs(choice.logprobs)
                    lines.append(encode(self._line(content, thinking, now=now, logprobs=logprobs)))
                elif content:
                    lines.append(before_text + encode(content) + self._after_text)
                if delta.tool_calls:
                    self._gather(delta.tool_calls)
                if choice.finish_reason is not None:
                    self._done_reason = _done_reason(choice.finish_reason)
        return _joined(lines)

    def end(self, exchange: Exchange) -> bytes:
        """The calls that were gathered, and the last line. Raises UpstreamFailed for a call whose
        arguments are no object: half a call must not pass for a whole one."""
        lines = []
        if self._calls and not self._generate:
            calls = [self._calls[index].whole(at) for at, index in enumerate(sorted(self._calls))]
            lines.append(self._line("", "", calls=calls))
        last = self._line("", "")
        last.done, last.done_reason = True, self._done_reason
        _add_counts(last, exchange)
        return _joined([encode(line) for line in [*lines, last]])

    def whole(self, body: bytes, exchange: Exchange) -> bytes:
        """A non-streamed answer, from a completion in OpenAI's shape. Raises UpstreamFailed."""
        completion = orjson.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
        content = message.get("content") or message.get("refusal") or ""
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        calls = []
        for at, call in enumerate(message.get("tool_calls") or ()):
            function = call.get("function") or {}
            gathered = _Gathered(call.get("id") or "", function.get("name") or "")
            arguments = function.get("arguments") or ""
            if not isinstance(arguments, str):  # some servers give the object
                arguments = orjson.dumps(arguments).decode()
            gathered.fragments.append(arguments)
            calls.append(gathered.whole(at))
        logprobs = tell_logprobs(choice["logprobs"]) if choice.get("logprobs") else None
        line = self._line(content, thinking, calls=calls, logprobs=logprobs)
        line.done = True
        line.done_reason = _done_reason(choice.get("finish_reason"))
        _add_counts(line, exchange)
        return encode(line)

    def _gather(self, deltas: Iterable[ToolCallDelta]) -> None:
        for delta in deltas:
            call = self._calls.get(delta.index)
            if call is None:
                call = self._calls[delta.index] = _Gathered()
            call.id = call.id or delta.id or ""
            if delta.function is not None:
                call.name = call.name or delta.function.name or ""
                call.fragments.append(delta.function.arguments or "")

    def _line(
        self,
        content: str,
        thinking: str,
        *,
        now: str = "",
        calls: list[_Call] | None = None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> _Line:
        now = now or rfc3339()
        if self._generate:
            return _Line(
                self._model, now, False, response=content, thinking=thinking, logprobs=logprobs
            )
        message = _Message("assistant", content, thinking, calls or [])
        return _Line(self._model, now, False, message=message, logprobs=logprobs)


class _Gathered:
    """One call on its way."""

    __slots__ = ("fragments", "id", "name")

    def __init__(self, id_: str = "", name: str = "") -> None:
        self.id = id_
        self.name = name
        self.fragments: list[str] = []

    def whole(self, index: int) -> _Call:
        arguments = "".join(self.fragments).strip() or "{}"
        try:
            parsed = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict):
            raise UpstreamFailed(
                f"The model's call of the tool {self.name[:64]!r} has arguments that are no JSON "
                "object."
            )
        # As it stands: a number may be longer than a float. Line breaks can only be white space.
        arguments = arguments.replace("\n", " ").replace("\r", " ")
        function = _Function(self.name, msgspec.Raw(arguments.encode()), index)
        return _Call(self.id or f"call_{index}", function)


def _joined(lines: list[bytes]) -> bytes:
    return one_line(b"".join(line + b"\n" for line in lines))


def _done_reason(finish_reason: str | None) -> str | None:
    """A call ends as `stop` there. Ollama has no word for a filtered answer, and OpenAI's is better
    than one that says nothing happened."""
    if finish_reason in ("tool_calls", "function_call"):
        return "stop"
    return finish_reason


def _add_counts(line: _Line, exchange: Exchange) -> None:
    """Counts as far as they are known, and durations as they were seen from here."""
    ended = time.perf_counter()
    began = exchange.call.started
    first = exchange.first_token_at or ended
    line.total_duration = nanoseconds(ended - began)
    line.load_duration = 0
    line.prompt_eval_duration = nanoseconds(first - began)
    line.eval_duration = nanoseconds(ended - first)
    if exchange.usage is not None:
        counts = exchange.counts()
        line.prompt_eval_count, line.eval_count = counts.input, counts.output


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama tells it, never negative."""
    return max(0, round(seconds * 1_000_000_000))


def rfc3339() -> str:
    """Now, as Ollama writes times."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def tell_logprobs(logprobs: Any) -> list[dict[str, Any]] | None:
    """OpenAI's `logprobs` object as Ollama's list of tokens."""
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(entries, list):
        return None
    told = []
    for entry in filter(_is_object, entries):
        tops = entry.get("top_logprobs")
        told.append(_token(entry))
        if tops and isinstance(tops, list):
            told[-1]["top_logprobs"] = [_token(each) for each in filter(_is_object, tops)]
    return told


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}


def error_body(error: GatewayError) -> bytes:
    """Ollama's envelope: the message alone."""
    return orjson.dumps({"error": error.message})
