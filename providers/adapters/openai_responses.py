"""OpenAI's Responses API as an upstream speaks it: its answers and its typed events.

A request of a caller on the same wire goes up as it came, and the answer comes down so: hosted
tools, encrypted reasoning and fields nobody here knows survive. What is read of it is what the
ledger and the dispatcher need. Shapes: openai 3.54.0, `types/responses/`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import orjson

from chat.errors import (
    GatewayError,
    UpstreamError,
    UpstreamFailed,
    UpstreamRejected,
    UpstreamUnreachable,
)
from chat.ndjson import UNREADABLE, is_json, is_text
from chat.responses import ResponsesBatch
from chat.sse import EventTooLarge, SSEDecoder, SSEEvent, encode_event
from chat.types import (
    ChatChunk,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionDelta,
    Reply,
    TokensDetails,
    ToolCallDelta,
    Usage,
)
from providers.adapters.base import Endpoint
from providers.adapters.credential import without
from providers.adapters.openai_errors import error_in_band, redact
from providers.adapters.openai_stream import count_of

_EVENT_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_TEXTS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning_content",
    "response.reasoning_summary_text.delta": "reasoning_content",
}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_UPSTREAMS_FAULT = frozenset({None, "", "server_error", "vector_store_timeout"})


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    sequence_number: Any = None
    delta: Any = None
    response: msgspec.Raw = msgspec.Raw(b"null")
    item: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def is_missing_endpoint(status: int, body: bytes) -> bool:
    """Whether an error says that the upstream has no Responses API at all, rather than that this
    request found no model there."""
    if status in (405, 501):
        return True
    if status != 404:
        return False
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return True
    error = told.get("error") if isinstance(told, dict) else None
    fields = error if isinstance(error, dict) else {"message": error}
    about_a_model = "model" in str(fields.get("message")).lower()
    return not (about_a_model or fields.get("code") == "model_not_found" or fields.get("param"))


def read_response(body: bytes, endpoint: Endpoint) -> Reply:
    """A non-streamed answer. Raises UpstreamError for a 200 that holds no response, or a failed
    one: nothing has been given away yet (M27)."""
    try:
        response = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None
    if not isinstance(response, dict):
        raise UpstreamFailed("The provider's answer is not a response.")
    if response.get("status") == "failed" or (
        response.get("error") is not None and not response.get("output")
    ):
        raise failure_of(response.get("error"), endpoint)
    if not isinstance(response.get("output"), list):
        raise UpstreamFailed("The provider's answer holds no response.")
    return Reply(
        body=body,
        finish_reason=_finish(response),
        usage=read_usage(response.get("usage")),
        text_bytes=_text_bytes(response["output"]),
        wire="responses",
    )


def failure_of(error: Any, endpoint: Endpoint) -> UpstreamError:
    """The error of a failed response. Codes that are not the upstream's own fault are the
    request's (`ResponseError.code`: invalid_prompt, image_too_large, …)."""
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code")
    if not isinstance(code, str) or code in _UPSTREAMS_FAULT or code == "rate_limit_exceeded":
        return error_in_band(error or {"message": "The provider's response failed."}, endpoint)
    message = redact(str(fields.get("message") or "The provider's response failed."), endpoint)
    return UpstreamRejected(message, upstream_status=400, code=code)


def read_usage(usage: Any) -> Usage | None:
    """The counts of a Response object in the vocabulary's words."""
    if not isinstance(usage, dict):
        return None
    inputs, outputs = usage.get("input_tokens_details"), usage.get("output_tokens_details")
    return Usage(
        prompt_tokens=_count(usage, "input_tokens"),
        completion_tokens=_count(usage, "output_tokens"),
        total_tokens=_count(usage, "total_tokens"),
        prompt_tokens_details=TokensDetails(
            cached_tokens=_count(inputs, "cached_tokens"),
            cache_write_tokens=_count(inputs, "cache_write_tokens"),
        ),
        completion_tokens_details=TokensDetails(
            reasoning_tokens=_count(outputs, "reasoning_tokens")
        ),
    )


def _count(counts: Any, name: str) -> int:
    return count_of(counts.get(name)) if isinstance(counts, dict) else 0


def _finish(response: dict[str, Any]) -> FinishReason:
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return "content_filter" if reason == "content_filter" else "length"
    called = any(each.get("type") == "function_call" for each in _objects(response.get("output")))
    return "tool_calls" if called else "stop"


def _text_bytes(items: list[Any]) -> int:
    size = 0
    for item in _objects(items):
        size += len(str(item.get("arguments") or ""))
        for part in _objects(item.get("content")):
            size += len(str(part.get("text") or part.get("refusal") or ""))
    return size


def _objects(values: Any) -> list[dict[str, Any]]:
    """The objects of a list, where it is one."""
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise _no_event() from None
    return fields


def _written(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:  # nested past what a writer takes
        raise _no_event() from None


def _no_event() -> UpstreamFailed:
    return UpstreamFailed("The provider sent an event that is not one.")


class ResponsesReader:
    """One upstream stream: bytes in, batches out. `done` is set by the event that ends it, and
    `failure` where that event tells of one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._decoder = SSEDecoder()
        self._next_number = 0
        self.done = False
        self.failure: GatewayError | None = None

    def feed(self, packet: bytes) -> ResponsesBatch | None:
        """What a packet brings, or None. Raises UpstreamFailed for what is no event stream."""
        try:
            return self._collect(self._decoder.feed(packet))
        except EventTooLarge:
            raise UpstreamFailed("The provider sent an event larger than any response.") from None

    def finish(self) -> ResponsesBatch | None:
        """Call at the end of the bytes. Raises UpstreamUnreachable when no event has ended the
        response: `completed` is never invented (M26)."""
        batch = self._collect([each for each in self._decoder.finish() if is_json(each.data)])
        if not self.done:
            raise UpstreamUnreachable(
                "The provider's stream broke off.", kind="network", retryable=True
            )
        return batch

    def _collect(self, events: list[SSEEvent]) -> ResponsesBatch | None:
        batch = ResponsesBatch([])
        wire: list[bytes] = []
        for sse in events:
            data = without(sse.data.strip(), self._endpoint.api_key)
            if self.done or data == b"[DONE]":
                break
            try:
                wire.append(self._read(data, sse.type, batch))
            except UpstreamError as error:
                if not wire:
                    raise
                self.failure, self.done = error, True  # what came before it is given away first
        if not wire:
            return None
        batch.wire = b"".join(wire)
        return batch

    def _read(self, data: bytes, named: str, batch: ResponsesBatch) -> bytes:
        try:
            event = _decode(data)
        except UNREADABLE:
            raise _no_event() from None
        if b"\n" in data or not is_text(data):
            data = _written(_parsed(data))
        kind = event.type or named
        if kind == "error" or not event.type.startswith(("response.", "keepalive")):
            data = self._read_other(data, kind, batch)
        elif event.type in _ENDS:
            data = self._read_end(data, event, batch)
        else:
            _note(event, batch.chunks)
        data = self._numbered(data, event)
        batch.sequence_number = self._next_number - 1
        return encode_event(data, kind if _EVENT_NAME.fullmatch(kind) else "")

    def _read_other(self, data: bytes, kind: str, batch: ResponsesBatch) -> bytes:
        """`error` events, in OpenAI's flat form or as an envelope; others pass."""
        fields = _parsed(data)
        error = fields.get("error") or (fields if kind == "error" else None)
        if error is None:
            return data
        self._fail(error_in_band(error, self._endpoint), batch)
        assert self.failure is not None
        flat = {"type": "error", "code": self.failure.code, "message": self.failure.message}
        return _written({**flat, "param": self.failure.param})

    def _read_end(self, data: bytes, event: _Event, batch: ResponsesBatch) -> bytes:
        response: Any = _parsed(bytes(event.response))
        if not isinstance(response, dict):
            response = {}
        batch.response = response
        self.done = True
        usage = read_usage(response.get("usage"))
        if event.type != "response.failed":
            end = ChunkChoice(0, Delta(), finish_reason=_finish(response))
            batch.chunks.append(ChatChunk([end], usage=usage))
            return data
        if usage is not None:
            batch.chunks.append(ChatChunk([], usage=usage))
        self._fail(failure_of(response.get("error"), self._endpoint), batch)
        return self._redacted(data, response)

    def _fail(self, failure: UpstreamError, batch: ResponsesBatch) -> None:
        self.failure = failure
        self.done = batch.failed = True

    def _redacted(self, data: bytes, response: dict[str, Any]) -> bytes:
        """The event of a failure, and its response, without our credential or the upstream's
        address (M42)."""
        error = response.get("error")
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            error["message"] = redact(error["message"], self._endpoint)
            return _written({**_parsed(data), "response": response})
        return data

    def _numbered(self, data: bytes, event: _Event) -> bytes:
        """Some servers leave the sequence numbers out, and clients resume by them."""
        if isinstance(event.sequence_number, int) and not self.failure:
            self._next_number = event.sequence_number + 1
            return data
        fields = _parsed(data)
        if isinstance(event.sequence_number, int):
            self._next_number = event.sequence_number
        fields["sequence_number"] = self._next_number
        self._next_number += 1
        return _written(fields)


def _note(event: _Event, chunks: list[ChatChunk]) -> None:
    """What of an event the ledger counts, and what tells the dispatcher of an answer: text, or an
    item that only an upstream at work on one would begin."""
    delta: Delta | None = None
    name = _TEXTS.get(event.type)
    if name is not None and isinstance(event.delta, str):
        delta = Delta()
        setattr(delta, name, event.delta)
    elif event.type == "response.function_call_arguments.delta":
        arguments = event.delta if isinstance(event.delta, str) else ""
        delta = Delta(tool_calls=[ToolCallDelta(0, function=FunctionDelta(arguments=arguments))])
    elif event.type == "response.output_item.added" and _is_run(event.item):
        delta = Delta(tool_calls=[ToolCallDelta(0)])
    if delta is not None:
        chunks.append(ChatChunk([ChunkChoice(0, delta)]))


def _is_run(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") not in ("message", "reasoning")


def whole_as_batch(body: bytes, endpoint: Endpoint) -> ResponsesBatch:
    """A server that ignores `stream` answers with plain JSON: the same answer, as events."""
    reply = read_response(body, endpoint)
    response = orjson.loads(body)
    output = response["output"]
    events: list[dict[str, Any]] = [
        {
            "type": "response.created",
            "response": {**response, "status": "in_progress", "output": [], "usage": None},
        }
    ]
    for at, item in enumerate(output):
        events.append({"type": "response.output_item.added", "output_index": at, "item": item})
        events.append({"type": "response.output_item.done", "output_index": at, "item": item})
    end = "incomplete" if response.get("status") == "incomplete" else "completed"
    events.append({"type": f"response.{end}", "response": response})
    for number, event in enumerate(events):
        event["sequence_number"] = number
    choice = ChunkChoice(0, Delta(), finish_reason=_finish(response))
    return ResponsesBatch(
        chunks=[ChatChunk([choice], usage=reply.usage)],
        wire=b"".join(encode_event(_written(event), event["type"]) for event in events),
        response=response,
        sequence_number=len(events) - 1,
    )
