"""Reads a whole Anthropic answer: as it is for a caller on the same wire, else as a completion."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import orjson
from msgspec import UNSET, Raw, Struct, UnsetType

from chat.errors import UpstreamFailed
from chat.folding import usage_fields
from chat.ndjson import UNREADABLE
from chat.types import FinishReason, Reply
from providers.adapters.anthropic_errors import error_in_band
from providers.adapters.anthropic_usage import (
    PAUSED,
    Tokens,
    finish_of,
    refusal_text,
    refuse_uncalled,
)
from providers.adapters.base import Endpoint

_THINKING = frozenset({"thinking", "redacted_thinking"})


class _Block(Struct, gc=False):
    type: str
    id: str = ""
    name: str = ""
    text: str | None = None
    thinking: str | None = None
    input: Raw | UnsetType = UNSET


class _Message(Struct, gc=False):
    content: list[_Block]
    type: str = ""
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    stop_details: Any = None
    usage: Tokens | None = None


_decode = msgspec.json.Decoder(_Message).decode


def read_native(body: bytes, endpoint: Endpoint) -> Reply:
    """The answer untouched. Raises UpstreamError for a 200 that holds no message (M27)."""
    message = _read(body, endpoint)
    called = any(block.type == "tool_use" for block in message.content)
    reason = message.stop_reason
    return _reply(body, message, finish_of(reason, called=called) if reason else None, native=True)


def read_completion(body: bytes, endpoint: Endpoint, *, must_call: bool = False) -> Reply:
    """The answer as a chat completion. Raises UpstreamError for a 200 that holds no message, and
    for one that does not say why it ended: a reason is never invented (M26). Raises
    ToolChoiceNotMet for one without the call it owes."""
    message = _read(body, endpoint)
    if message.stop_reason is None:
        raise UpstreamFailed("The provider's answer does not say why it ended.")
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": _input(block)},
        }
        for block in message.content
        if block.type == "tool_use"
    ]
    finish = finish_of(message.stop_reason, called=bool(calls))
    if must_call and finish == "stop":
        raise refuse_uncalled(message.usage)
    said: dict[str, Any] = {
        "role": "assistant",
        "content": _text(message) or (None if calls else ""),
        "refusal": None,
    }
    if calls:
        said["tool_calls"] = calls
    if message.stop_reason == "refusal":
        said["refusal"] = refusal_text(message.stop_details)
    said.update(_thoughts(message, body))
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish}
    if message.stop_reason == PAUSED:
        choice["native_finish_reason"] = PAUSED
    completion = {
        "id": message.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": message.model,
        "choices": [choice],
    }
    reply = _reply(b"", message, finish)
    if reply.usage is not None:
        completion["usage"] = usage_fields(reply.usage)
    try:
        reply.body = orjson.dumps(completion)
    except orjson.JSONEncodeError:
        raise UpstreamFailed("The provider's answer is nested too deeply.") from None
    return reply


def _read(body: bytes, endpoint: Endpoint) -> _Message:
    try:
        message = _decode(body)
    except UNREADABLE:
        message = _read_odd(body, endpoint)
    if message.type not in ("message", ""):
        raise UpstreamFailed("The provider's answer holds no message.")
    return message


def _read_odd(body: bytes, endpoint: Endpoint) -> _Message:
    """A message whose usage alone cannot be read, without it."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None
    if isinstance(fields, dict) and fields.get("error") is not None:
        raise error_in_band(body, endpoint)
    try:
        return _decode(orjson.dumps({**fields, "usage": None}))
    except (TypeError, *UNREADABLE):  # or nested past what a writer takes
        raise UpstreamFailed("The provider's answer holds no message.") from None


def _reply(
    body: bytes, message: _Message, finish: FinishReason | None, *, native: bool = False
) -> Reply:
    size = sum(
        len(block.text or "") + len(block.thinking or "") + len(_input(block))
        for block in message.content
    )
    return Reply(
        body=body,
        finish_reason=finish,
        usage=message.usage.usage() if message.usage is not None else None,
        text_bytes=size,
        wire="anthropic" if native else "openai",
    )


def _input(block: _Block) -> str:
    if not isinstance(block.input, Raw):
        return "{}"
    try:
        return bytes(block.input).decode()
    except UnicodeDecodeError:
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None


def _text(message: _Message) -> str:
    return "".join(block.text or "" for block in message.content if block.type == "text")


def _thoughts(message: _Message, body: bytes) -> dict[str, Any]:
    """Thinking as text, and its blocks to the letter: what is not in our types is kept too."""
    if not any(block.type in _THINKING for block in message.content):
        return {}
    try:
        content = orjson.loads(body)["content"]
    except orjson.JSONDecodeError:  # stricter with numbers and depth than the first reader
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None
    fields: dict[str, Any] = {
        "thinking_blocks": [block for block in content if block["type"] in _THINKING]
    }
    if text := "".join(block.thinking or "" for block in message.content):
        fields["reasoning_content"] = text
    return fields
