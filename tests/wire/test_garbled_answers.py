"""Upstreams whose answers hold something else where a fact should be: told as the upstream's
failure, or read without that fact, on every wire; never a failure of the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import anthropic_upstream as claude
from tests.conftest import spare_database
from tests.gateway import Answered, Gateway, configuration, with_ollama
from tests.upstream import (
    DONE,
    NDJSON,
    Script,
    Upstream,
    chat_line,
    completion,
    event,
    last_line,
    line,
    scripted_upstream,
    silence,
    streaming,
    whole,
)

pytestmark = pytest.mark.once

HELLO = [{"role": "user", "content": "hello"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
TOKEN = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
WIRES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": HELLO}),
    "responses": ("/v1/responses", {"input": "hello"}),
    "completions": ("/v1/completions", {"prompt": "hello"}),
    "messages": ("/v1/messages", {"max_tokens": 9, "messages": HELLO}),
    "ollama chat": ("/api/chat", {"messages": HELLO}),
    "ollama generate": ("/api/generate", {"prompt": "hello"}),
}
JUNK: list[Any] = [True, 1.5, 10**30, "x", [None], {"a": 5}]
Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Providers `scripted`, `llama`, `claude` and `native`: one upstream in four dialects."""
    folder: Path = tmp_path_factory.mktemp("garbled")
    settings = with_ollama(configuration(provider.base_url))
    (scripted, _) = settings["providers"]
    root = provider.base_url.removesuffix("/v1")
    settings["providers"] += [
        {**scripted, "name": "claude", "kind": "anthropic", "base_url": root},
        {**scripted, "name": "native", "options": {"responses": True}},
    ]
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(settings)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def garbled(answer: Any, place: Place) -> Iterator[Any]:
    """The answer with each piece of junk at this place."""
    for junk in JUNK:
        copy = json.loads(json.dumps(answer))
        holder = copy
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = junk
        yield copy


def ask(gateway: Gateway, wire: str, model: str, *, stream: bool) -> Answered:
    path, fields = WIRES[wire]
    return gateway.post(path, {"model": model, "stream": stream, **fields})


def check(answered: Answered, sent: Any) -> None:
    assert answered.status in (200, 502), (answered, sent)
    assert b"The gateway failed" not in answered.body, (answered, sent)


def check_all(
    gateway: Gateway, upstream: Upstream, wire: str, model: str, scripts: Sequence[Script]
) -> None:
    for script in scripts:
        upstream.script = script
        for stream in (False, True):
            check(ask(gateway, wire, model, stream=stream), script)


def chat_answer() -> dict[str, Any]:
    answer = completion("Hello.", reasoning_content="Hm.", tool_calls=[CALL])
    answer["choices"][0]["logprobs"] = {"content": [TOKEN], "refusal": None}
    answer["usage"]["prompt_tokens_details"] = {"cached_tokens": 1}
    return answer


IN_A_MESSAGE: list[Place] = [
    ("choices", 0, "finish_reason"),
    ("choices", 0, "index"),
    ("choices", 0, "logprobs"),
    ("choices", 0, "logprobs", "content"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs"),
    ("choices", 0, "message", "refusal"),
    ("choices", 0, "message", "reasoning_content"),
    ("choices", 0, "message", "tool_calls"),
    ("choices", 0, "message", "tool_calls", 0),
    ("choices", 0, "message", "tool_calls", 0, "id"),
    ("choices", 0, "message", "tool_calls", 0, "function"),
    ("choices", 0, "message", "tool_calls", 0, "function", "name"),
    ("choices", 0, "message", "tool_calls", 0, "function", "arguments"),
    ("created",),
    ("usage", "prompt_tokens"),
    ("usage", "completion_tokens"),
    ("usage", "prompt_tokens_details", "cached_tokens"),
]


@pytest.mark.parametrize("wire", WIRES)
def test_a_garbled_completion_is_the_upstreams_failure(
    served: Gateway, provider: Upstream, wire: str
) -> None:
    for place in IN_A_MESSAGE:
        scripts = [whole(200, each) for each in garbled(chat_answer(), place)]
        check_all(served, provider, wire, "scripted/m", scripts)


@pytest.mark.parametrize("wire", WIRES)
def test_a_garbled_chunk_is_the_upstreams_failure(
    served: Gateway, provider: Upstream, wire: str
) -> None:
    delta = {"content": "Hi.", "tool_calls": [{"index": 0, **CALL}]}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    counts = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    told = {**chunk, "choices": [choice], "usage": counts}
    places: list[Place] = [
        ("choices", 0, "finish_reason"),
        ("choices", 0, "delta", "tool_calls"),
        ("choices", 0, "delta", "tool_calls", 0),
        ("usage", "prompt_tokens"),
        ("usage", "completion_tokens"),
    ]
    for place in places:
        scripts = [streaming([event(each), DONE]) for each in garbled(told, place)]
        for script in scripts:
            provider.script = script
            check(ask(served, wire, "scripted/m", stream=True), place)


@pytest.mark.parametrize("wire", WIRES)
def test_a_garbled_line_of_ollamas_is_the_upstreams_failure(
    served: Gateway, provider: Upstream, wire: str
) -> None:
    last = json.loads(last_line(content="Hello.", logprobs=[TOKEN]))
    places: list[Place] = [
        ("prompt_eval_count",),
        ("eval_count",),
        ("logprobs", 0, "logprob"),
        ("logprobs", 0, "bytes"),
        ("logprobs", 0, "top_logprobs"),
        ("done_reason",),
    ]
    for place in places:
        for each in garbled(last, place):
            provider.script = whole(200, each)
            check(ask(served, wire, "llama/m", stream=False), each)
            lines = [chat_line(content="He"), line(each)]
            provider.script = streaming(lines, content_type=NDJSON)
            check(ask(served, wire, "llama/m", stream=True), each)


@pytest.mark.parametrize("wire", WIRES)
def test_garbled_counts_of_anthropics_are_the_upstreams_failure(
    served: Gateway, provider: Upstream, wire: str
) -> None:
    for place in (("usage", "input_tokens"), ("usage", "cache_read_input_tokens")):
        answers = garbled(claude.message(claude.text("Hello.")), place)
        check_all(served, provider, wire, "claude/m", [whole(200, each) for each in answers])


def test_a_garbled_response_is_the_upstreams_failure(served: Gateway, provider: Upstream) -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text"}]}
    told = {"id": "resp_1", "object": "response", "status": "completed", "output": [said]}
    counts = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    for place in (("output",), ("output", 0, "content"), ("id",), ("usage", "input_tokens")):
        for each in garbled({**told, "usage": counts}, place):
            provider.script = whole(200, each)
            check(ask(served, "responses", "native/m", stream=False), each)
            end = {"type": "response.completed", "sequence_number": 0, "response": each}
            provider.script = streaming([event(end)])
            check(ask(served, "responses", "native/m", stream=True), each)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{}", b"<html>", b'{"input_tokens": "9"}'])
def test_a_count_that_is_none_is_the_upstreams_failure(
    served: Gateway, provider: Upstream, raw: bytes
) -> None:
    provider.script = whole(200, raw)
    answered = served.post("/v1/messages/count_tokens", {"model": "claude/m", "messages": HELLO})
    assert answered.status == 502
    assert answered.json()["type"] == "error"


def test_a_page_in_place_of_a_relayed_answer_is_the_upstreams_failure(
    served: Gateway, provider: Upstream
) -> None:
    provider.script = whole(200, b"<html>Log in</html>", content_type="text/html; charset=utf-8")
    answered = served.post("/v1/moderations", {"model": "scripted/m", "input": "hello"})
    assert answered.status == 502
    assert answered.json()["error"]["code"]
