"""Reads OpenAI's text completions, whole and streamed: bytes kept where they are right."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamUnreachable
from chat.ndjson import UNREADABLE
from chat.sse import EventTooLarge, SSEDecoder, SSEEvent, encode_event
from chat.text_completions import legacy_logprobs
from chat.types import FINISH_REASONS, Batch, ChatChunk, ChunkChoice, Delta, Reply, Usage
from providers.adapters.base import Endpoint
from providers.adapters.credential import without
from providers.adapters.openai_errors import error_in_band
from providers.adapters.openai_stream import legal_finish, mend_usage


class _Choice(msgspec.Struct):
    text: str
    index: int
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Text(msgspec.Struct):
    """A whole completion or a chunk of one: the two have the same shape."""

    choices: list[_Choice]
    id: str = ""
    created: int = 0
    model: str = ""
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Text).decode
_MISSING = (404, 405, 501)


def lacks_endpoint(status: int, body: bytes) -> bool:
    """Whether an answer says that there are no text completions there, or none of a model that
    only chats, rather than that there is no such model."""
    if status not in _MISSING:
        return False
    try:
        error = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return True
    return not (isinstance(error, dict) and error.get("code") == "model_not_found")


def read_text(body: bytes, endpoint: Endpoint) -> Reply:
    """A whole answer. Raises UpstreamFailed for a 200 that holds no completion (M27)."""
    text, body = _read(body, endpoint)
    if not text.choices:
        raise UpstreamFailed("The provider's answer holds no completion.")
    return Reply(
        body=body,
        finish_reason=text.choices[0].finish_reason,
        usage=text.usage,
        text_bytes=sum(len(choice.text) for choice in text.choices),
    )


def whole_text_as_batch(body: bytes, endpoint: Endpoint) -> Batch:
    """A server that ignores `stream` answers with plain JSON: the same answer, as chunks."""
    text, _ = _read(body, endpoint)
    if not text.choices:
        raise UpstreamFailed("The provider's answer holds no completion.")
    usage, text.usage = text.usage, None
    return Batch([_as_chunk(text), ChatChunk([], usage=usage)])


def _read(body: bytes, endpoint: Endpoint) -> tuple[_Text, bytes]:
    """Also of what a chunk holds. Raises UpstreamError for an error told in band, and
    UpstreamFailed for what is no text completion."""
    try:
        text = _decode(body)
        if text.error is None and all(map(_is_strict, text.choices)):
            return text, body
    except UNREADABLE:
        pass
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None
    if isinstance(fields, dict) and fields.get("error") is not None:
        raise error_in_band(fields["error"], endpoint)
    _mend(fields)
    body = orjson.dumps(fields)
    try:
        return _decode(body), body
    except msgspec.ValidationError:
        raise UpstreamFailed("The provider's answer holds no text completion.") from None


def _is_strict(choice: _Choice) -> bool:
    logprobs = choice.logprobs
    return (choice.finish_reason is None or choice.finish_reason in FINISH_REASONS) and not (
        logprobs and "content" in logprobs
    )


def _mend(fields: Any) -> None:
    if not isinstance(fields, dict):
        return
    mend_usage(fields)
    choices = fields.get("choices")
    if choices is None and fields.get("usage"):
        fields["choices"] = []
    for at, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict):
            _mend_choice(choice, at)


def _mend_choice(choice: dict[str, Any], at: int) -> None:
    choice.setdefault("index", at)
    if choice.get("text") is None and "message" not in choice:
        choice["text"] = ""
    choice["finish_reason"] = legal_finish(str(choice.get("finish_reason") or "") or None)
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if isinstance(content, list):
        choice["logprobs"] = legacy_logprobs(content)  # llama.cpp's are a chat's
    elif isinstance(logprobs, dict):
        logprobs.pop("content", None)


def _as_chunk(text: _Text) -> ChatChunk:
    return ChatChunk(
        choices=[
            ChunkChoice(
                index=choice.index,
                delta=Delta(content=choice.text),
                finish_reason=legal_finish(choice.finish_reason),  # type: ignore[arg-type]
                logprobs=choice.logprobs,
            )
            for choice in text.choices
        ],
        id=text.id,
        created=text.created,
        model=text.model,
        usage=text.usage,
    )


class TextStreamReader:
    """One upstream stream. `done` is set by `[DONE]`; `finish` judges a stream without it."""

    def __init__(self, endpoint: Endpoint, *, hide_usage: bool) -> None:
        self._endpoint = endpoint
        self._hide_usage = hide_usage
        self._decoder = SSEDecoder()
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self.done = False
        self.failure: GatewayError | None = None
        """Told in band: to be raised once the chunks before it are given away."""

    def feed(self, packet: bytes) -> Batch | None:
        """What a packet brings, or None; look at `failure` afterwards."""
        try:
            return self._collect(self._decoder.feed(packet))
        except EventTooLarge:
            raise UpstreamFailed("The provider sent an event larger than any chunk.") from None

    def finish(self) -> Batch | None:
        """Call at the end of the bytes. Look at `failure` afterwards. Raises UpstreamUnreachable
        when the stream was cut off: not every choice that was begun has a finish reason, and none
        is invented (M26)."""
        batch = self._collect(self._decoder.finish())
        if (
            not self.done
            and self.failure is None
            and (not self._begun or self._begun - self._finished)
        ):
            raise UpstreamUnreachable(
                "The provider's stream broke off.", kind="network", retryable=True
            )
        return batch

    def _collect(self, events: list[SSEEvent]) -> Batch | None:
        chunks: list[ChatChunk] = []
        wire: list[bytes] = []
        for event in events:
            if self.done or self.failure is not None:
                break
            data = without(event.data.strip(), self._endpoint.api_key)
            if data == b"[DONE]":
                self.done = True
                break
            try:
                text, data = _read(data, self._endpoint)
            except UpstreamError as error:
                self.failure = error
                break
            chunk = _as_chunk(text)
            chunks.append(chunk)
            self._note(chunk)
            if chunk.choices or not (self._hide_usage and chunk.usage is not None):
                wire.append(encode_event(data.replace(b"\n", b" ")))
        return Batch(chunks, b"".join(wire)) if chunks else None

    def _note(self, chunk: ChatChunk) -> None:
        for choice in chunk.choices:
            self._begun.add(choice.index)
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
