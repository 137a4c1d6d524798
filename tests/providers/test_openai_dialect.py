"""What api.openai.com is sent of requests that came in on another wire."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from chat.requests import ChatParams, ChatRequest
from chat.types import Wire
from providers.adapters.base import Endpoint
from providers.adapters.openai import OpenAIAdapter, OpenAICompatibleAdapter

pytestmark = pytest.mark.once

EPHEMERAL = {"type": "ephemeral"}
BODY: dict[str, Any] = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "hi", "cache_control": EPHEMERAL}],
        },
        {
            "role": "assistant",
            "content": "Hm.",
            "reasoning_content": "Hm?",
            "thinking_blocks": [{"type": "thinking", "thinking": "Hm?", "signature": "s"}],
        },
    ],
    "tools": [{"type": "function", "function": {"name": "now"}, "cache_control": EPHEMERAL}],
    "max_tokens": 50,
    "reasoning_effort": "none",
}


def request_on(wire: Wire) -> ChatRequest:
    body = copy.deepcopy(BODY)
    return ChatRequest(msgspec.convert(body, ChatParams), body, size=1, wire=wire)


def sent(kind: type[OpenAIAdapter], request: ChatRequest, **options: Any) -> dict[str, Any]:
    endpoint = Endpoint(base_url="https://x.example/v1", api_key="k", model="m", options=options)
    return kind(endpoint, http=None).payload(request)  # type: ignore[arg-type]  # asks nobody


def test_openai_gets_no_field_it_refuses() -> None:
    request = request_on("anthropic")
    assert sent(OpenAIAdapter, request) == {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "Hm."},
        ],
        "tools": [{"type": "function", "function": {"name": "now"}}],
        "max_completion_tokens": 50,
    }
    assert request.dropped == {"cache_control", "thinking", "reasoning_effort", "prefill"}
    assert request.body == BODY  # the next target may want them


def test_an_answer_that_was_begun_cannot_be_continued() -> None:
    request = request_on("anthropic")
    assert request.body["messages"][-1]["role"] == "assistant"
    sent(OpenAIAdapter, request)
    assert "prefill" in request.dropped


def test_compatible_servers_get_them() -> None:
    request = request_on("anthropic")
    assert sent(OpenAICompatibleAdapter, request) == {**BODY, "model": "m"}
    assert request.dropped == set()


def test_what_an_openai_caller_says_is_meant() -> None:
    assert sent(OpenAIAdapter, request_on("openai")) == {**BODY, "model": "m"}


def test_a_strict_server_gets_no_extensions_and_its_own_words() -> None:
    request = request_on("anthropic")
    assert sent(OpenAICompatibleAdapter, request, extensions=False) == {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "Hm."},
        ],
        "tools": [{"type": "function", "function": {"name": "now"}}],
        "max_tokens": 50,
        "reasoning_effort": "none",
    }
    assert request.dropped == {"cache_control", "thinking"}
    assert request.body == BODY


def test_a_strict_server_gets_what_a_caller_on_its_wire_says() -> None:
    assert sent(OpenAICompatibleAdapter, request_on("openai"), extensions=False) == {
        **BODY,
        "model": "m",
    }
