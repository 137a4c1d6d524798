"""Recorded answers of upstreams that speak OpenAI, read by Anthropic's own client."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import pytest

from tests.gateway import KEY, Gateway
from tests.recordings import needs, recorded
from tests.upstream import Upstream
from tests.wire.test_openai_replay import events, playing

FILES = ("openai-chat", "other-providers", "local-servers", "huggingface", "ollama")
STOPS = {
    "stop": "end_turn",
    "eos": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


INTERACTIONS = recorded(*FILES, endpoint="/v1/chat/completions")
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]


@dataclass
class Said:
    """What an answer says, whichever wire it came on."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    stop: str | None = None
    usage: tuple[int, int, int] | None = None
    """Tokens in (with the cached ones), cached, and out."""


def recorded_answer(response: dict[str, Any]) -> Said:
    if response["body_text"] is None:
        choice = response["body"]["choices"][0]
        return said(choice["message"], choice["finish_reason"], response["body"].get("usage"))
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    finish = usage = None
    for data in events(response["body_text"]):
        if data == "[DONE]" or not data.startswith("{"):
            continue
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            if choice["index"] == 0:
                fold(message, choice.get("delta") or {})
                finish = choice.get("finish_reason") or finish
    return said(message, finish, usage)


def fold(message: dict[str, Any], delta: dict[str, Any]) -> None:
    text, thought = text_and_thought(delta)
    message["content"] += text + (delta.get("refusal") or "")
    message["reasoning_content"] += thought
    for at, piece in enumerate(delta.get("tool_calls") or ()):
        calls, index = message["tool_calls"], piece.get("index", at)
        while len(calls) <= index:
            calls.append({"id": "", "function": {"name": "", "arguments": ""}})
        function = piece.get("function") or {}
        calls[index]["id"] = calls[index]["id"] or piece.get("id") or ""
        calls[index]["function"]["name"] += function.get("name") or ""
        calls[index]["function"]["arguments"] += function.get("arguments") or ""


def text_and_thought(message: dict[str, Any]) -> tuple[str, str]:
    content, thought = message.get("content") or "", ""
    if isinstance(content, list):  # Mistral's reasoning models
        parts, content = content, ""
        for part in parts:
            if part["type"] == "thinking":
                thought += "".join(inner["text"] for inner in part["thinking"])
            else:
                content += part["text"]
    thought += message.get("reasoning_content") or message.get("reasoning") or ""
    return content, thought


def said(message: dict[str, Any], finish: str | None, usage: dict[str, Any] | None) -> Said:
    text, thought = text_and_thought(message)
    made = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        made.append({"id": "", "function": message["function_call"]})
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"] or "{}"))
        for call in made
    ]
    counts = None
    if usage is not None:
        details = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0
        # Azure has reported more cached tokens than tokens: no more than all are (M21).
        cached = min(cached, usage["prompt_tokens"])
        counts = (usage["prompt_tokens"], cached, usage["completion_tokens"])
    ended = finish in ("stop", "function_call")
    stop = "tool_use" if calls and ended else STOPS.get(finish or "")
    return Said(text + (message.get("refusal") or ""), thought, calls, stop, counts)


def read(message: anthropic.types.Message) -> Said:
    found = Said(stop=message.stop_reason)
    for block in message.content:
        if block.type == "text":
            found.text += block.text
        elif block.type == "thinking":
            found.thought += block.thinking
        elif block.type == "tool_use":
            found.calls.append((block.id, block.name, block.input))
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    found.usage = (usage.input_tokens + cached + written, cached, usage.output_tokens)
    return found


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield client


def ask(client: anthropic.Anthropic, interaction: dict[str, Any]) -> anthropic.types.Message:
    request: Any = {
        "model": "scripted/gpt-4o-mini",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "Say it."}],
        "extra_headers": {"x-request-id": f"messages-{interaction['id']}"},
    }
    if interaction["response"]["body_text"] is None:
        message: anthropic.types.Message = client.messages.create(**request)
        return message
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()


def why_left_out(interaction: dict[str, Any]) -> str | None:
    response = interaction["response"]
    if response["status"] != 200:
        return "an error"
    if response["body_text"] is not None:
        return "an error in the middle" if '"error"' in response["body_text"] else None
    body = response["body"]
    if not body.get("choices"):
        return "no choices"
    if body["choices"][0]["message"].get("audio"):
        return "spoken audio, for which the Anthropic wire has no block"
    return None


def test_every_recorded_answer_reads_the_same(
    client: anthropic.Anthropic, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    compared: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for interaction in INTERACTIONS:
        if reason := why_left_out(interaction):
            left_out[reason] += 1
            continue
        upstream.script = playing(interaction["response"])
        was, got = recorded_answer(interaction["response"]), read(ask(client, interaction))
        if was.usage is None:
            left_out["usage only: none was recorded"] += 1
            got.usage = None
        for at, (id_, name, arguments) in enumerate(was.calls):
            if not id_:
                left_out["a call's id only: none was recorded"] += 1
                was.calls[at] = (got.calls[at][0], name, arguments)
        assert got == was, interaction["id"]
        compared["streams" if interaction["response"]["body_text"] else "whole answers"] += 1
    with capsys.disabled():
        print(
            f"\n{len(INTERACTIONS)} recorded chat completions, read by the Anthropic client and "
            f"compared: {dict(compared)}, left out: {dict(left_out) or 'none'}"
        )
    assert compared["streams"] > 50
    assert compared["whole answers"] > 150


def test_every_recorded_failure_in_the_middle_is_told(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    """In the stream, or by the status where the whole of it came at once."""
    seen = 0
    for interaction in INTERACTIONS:
        if why_left_out(interaction) != "an error in the middle":
            continue
        upstream.script = playing(interaction["response"])
        with pytest.raises(anthropic.APIStatusError) as raised:
            ask(client, interaction)
        seen += 1
        assert raised.value.status_code in (200, 400)
        body: Any = raised.value.body
        assert body["error"]["message"] in interaction["response"]["body_text"]
    assert seen > 0


def test_every_recorded_error_keeps_its_status_and_message(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    seen = 0
    for interaction in INTERACTIONS:
        response = interaction["response"]
        if response["status"] == 200:
            continue
        upstream.script = playing(response)
        with pytest.raises(anthropic.APIStatusError) as raised:
            ask(client, interaction)
        seen += 1
        ours = {401: 502, 402: 502, 403: 502}.get(response["status"], response["status"])
        assert raised.value.status_code == ours, interaction["id"]
        body: Any = raised.value.body
        assert body["type"] == "error"
        told = (response["body"] or {}).get("error")
        if ours < 500 and isinstance(told, dict) and told.get("message"):
            assert body["error"]["message"] == told["message"], interaction["id"]
    assert seen > 20
