"""Reads OpenAI's chat completions that come whole: bytes kept where they are right, as in streams
(`openai_stream`)."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from chat.errors import UpstreamFailed
from chat.folding import unfold
from chat.ndjson import UNREADABLE
from chat.types import Batch, ChatChunk, Reply, Usage, encode
from providers.adapters.base import Endpoint
from providers.adapters.openai_calls import mend_whole, needs_mending
from providers.adapters.openai_errors import error_in_band
from providers.adapters.openai_stream import (
    legal_finish,
    mend_calls,
    mend_logprobs,
    mend_usage,
    text_of_parts,
)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    index: int = 0
    logprobs: dict[str, list[Any] | None] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Completion).decode
_decode_chunks = msgspec.json.Decoder(list[ChatChunk]).decode
_FINISH = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


def read_completion(body: bytes, endpoint: Endpoint) -> Reply:
    """A non-streamed answer. Raises UpstreamFailed for a 200 that holds no completion (M27)."""
    try:
        completion = _decode(body)
        if not body.isascii():
            body.decode()  # what is skipped above is not looked at, and goes to the caller
    except UNREADABLE:
        completion = None
    if completion is None or completion.error is not None or not _is_strict(completion):
        body, completion = _mend_completion(body, endpoint)
    return Reply(
        body=body,
        finish_reason=completion.choices[0].finish_reason,
        usage=completion.usage,
        text_bytes=sum(len(choice.message.content or "") for choice in completion.choices),
    )


def _is_strict(completion: _Completion) -> bool:
    return bool(completion.choices) and all(map(_is_strict_choice, completion.choices))


def _is_strict_choice(choice: _Choice) -> bool:
    calls = choice.message.tool_calls
    if calls and (choice.finish_reason == "stop" or needs_mending(calls)):
        return False
    return choice.finish_reason in _FINISH


def _mend_completion(body: bytes, endpoint: Endpoint) -> tuple[bytes, _Completion]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None
    if not isinstance(fields, dict):
        raise UpstreamFailed("The provider's answer is not a completion.")
    if fields.get("error") is not None:
        raise error_in_band(fields["error"], endpoint)
    choices = fields.get("choices")
    if not (isinstance(choices, list) and choices and all(map(_has_message, choices))):
        raise UpstreamFailed("The provider's answer holds no completion.")
    for at, choice in enumerate(choices):
        if type(choice.get("index")) is not int:
            choice["index"] = at
        choice["finish_reason"] = legal_finish(choice.get("finish_reason") or None)
        if isinstance(choice["message"].get("content"), list):
            text_of_parts(choice["message"])
        elif not isinstance(choice["message"].get("content"), str | None):
            choice["message"]["content"] = str(choice["message"]["content"])
        for name in ("refusal", "reasoning_content", "reasoning"):
            if not isinstance(choice["message"].get(name), str | None):
                del choice["message"][name]
        mend_calls(choice["message"])
        mend_whole(choice)
        mend_logprobs(choice)
    mend_usage(fields)
    try:
        body = orjson.dumps(fields)
        return body, _decode(body)
    except (TypeError, *UNREADABLE):  # or nested past what a writer takes
        raise UpstreamFailed("The provider's answer is a completion of an unknown shape.") from None


def _has_message(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


def whole_as_batch(body: bytes, endpoint: Endpoint) -> Batch:
    """A server that ignores `stream` answers with plain JSON: the same answer, as chunks."""
    reply = read_completion(body, endpoint)
    try:
        chunks = _decode_chunks(encode(unfold(orjson.loads(reply.body))))
    except (TypeError, ValueError, *UNREADABLE):
        raise UpstreamFailed("The provider's answer is a completion of an unknown shape.") from None
    chunks[-1].usage = reply.usage
    return Batch(chunks)
