"""Reads Ollama's whole answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import orjson

from chat.errors import GatewayError, UpstreamFailed
from chat.folding import usage_fields
from chat.ndjson import UNREADABLE
from chat.requests import ChatRequest
from chat.types import Reply
from providers.adapters.base import Endpoint
from providers.adapters.ollama_lines import (
    Call,
    Message,
    arguments_of,
    call_id,
    decode,
    finish_reason,
    odd_arguments,
    read_logprobs,
    read_usage,
)
from providers.adapters.ollama_request import ANY_ANSWER
from providers.adapters.openai_errors import error_in_band
from providers.emulation.tool_choice import ToolPolicy, no_call


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
        line = decode(body)
    except UNREADABLE:
        raise UpstreamFailed("The provider's answer could not be read.", retryable=True) from None
    if line.error is not None:
        raise error_in_band(line.error, endpoint)
    if not line.done:
        raise UpstreamFailed("The provider's answer holds no completion.")
    message = line.message or Message(content=line.response, thinking=line.thinking)
    id_ = os.urandom(12).hex()
    try:
        calls = _whole_calls(message.tool_calls or (), id_, policy)
    except GatewayError as error:
        error.usage = read_usage(line, request, text_bytes=len(message.content or ""))
        raise
    text_bytes = len(message.content or "") + len(message.thinking or "")
    text_bytes += sum(len(call["function"]["arguments"]) for call in calls)
    usage = read_usage(line, request, text_bytes=text_bytes)
    finish = finish_reason(line.done_reason, called=bool(calls))
    if native:
        return Reply(body, finish, usage, text_bytes, "ollama")
    told: dict[str, Any] = {
        "role": "assistant",
        "content": message.content or (None if calls else ""),
        "refusal": None,
    }
    if message.thinking:
        told["reasoning_content"] = message.thinking
    if calls:
        told["tool_calls"] = calls
    logprobs = read_logprobs(line.logprobs) if line.logprobs else None
    completion = {
        "id": f"chatcmpl-{id_}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": line.model or endpoint.model,
        "choices": [{"index": 0, "message": told, "logprobs": logprobs, "finish_reason": finish}],
        "usage": usage_fields(usage),
    }
    return Reply(orjson.dumps(completion), finish, usage, text_bytes)


def _whole_calls(calls: Iterable[Call], id_: str, policy: ToolPolicy) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for call in calls:
        if not policy.admits(call.function.name, after=len(told)):
            continue
        try:
            arguments = arguments_of(call.function.arguments)
        except ValueError:
            raise odd_arguments() from None
        function = {"name": call.function.name, "arguments": arguments}
        told.append({"id": call_id(call, id_, len(told)), "type": "function", "function": function})
    if policy.demanded and not told:
        raise no_call()
    return told
