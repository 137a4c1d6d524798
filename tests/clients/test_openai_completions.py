"""OpenAI's own Python client asking for legacy text completions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway import KEY, Gateway, wait_until
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Script,
    Upstream,
    chunks,
    completion,
    event,
    streaming,
    whole,
)

pytestmark = pytest.mark.once

MODEL = "scripted/gpt-3.5-turbo-instruct"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHAT_ONLY = {
    "message": "This is a chat model and not supported in the v1/completions endpoint.",
    "type": "invalid_request_error",
    "param": "model",
    "code": None,
}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def text(*texts: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "gpt-3.5-turbo-instruct",
        "choices": [choice(index, each, "stop") for index, each in enumerate(texts)],
        "usage": USAGE,
        **more,
    }


def choice(index: int, text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def piece(*choices: dict[str, Any], **more: Any) -> bytes:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    return event({**head, "choices": list(choices), **more})


def chatting(*answers: dict[str, Any], chat_only: Any = CHAT_ONLY) -> Script:
    """An upstream without text completions whose chats answer so, the last one for ever."""
    left = list(answers)

    async def script(asked: Asked, peer: Peer) -> None:
        if asked.path == "/v1/completions":
            body = chat_only if isinstance(chat_only, bytes) else {"error": chat_only}
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            peer.answer(404, raw)
            return
        peer.answer(200, json.dumps(left.pop(0) if len(left) > 1 else left[0]).encode())

    return script


def chats(upstream: Upstream) -> list[Any]:
    return [each.json() for each in upstream.asked if each.path == "/v1/chat/completions"]


def fresh(gateway: Gateway) -> str:
    """A model nobody asked for yet: what an adapter has learned of one is its own."""
    fresh.count += 1  # type: ignore[attr-defined]
    return f"scripted/only-chats-{fresh.count}"  # type: ignore[attr-defined]


fresh.count = 0  # type: ignore[attr-defined]


# --- upstreams that have them -------------------------------------------------------------------


def test_the_request_goes_upstream_as_it_came(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, text("one", "two"))
    answer = client.completions.create(
        model=MODEL,
        prompt=["a", "b"],
        suffix="!",
        best_of=3,
        echo=True,
        logprobs=2,
        extra_body={"top_k": 5},
    )
    assert [each.text for each in answer.choices] == ["one", "two"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    (asked,) = upstream.asked
    assert asked.path == "/v1/completions"
    assert asked.json() == {
        "model": "gpt-3.5-turbo-instruct",
        "prompt": ["a", "b"],
        "suffix": "!",
        "best_of": 3,
        "echo": True,
        "logprobs": 2,
        "top_k": 5,
    }


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]]])
def test_tokens_go_upstream_as_they_came(
    client: openai.OpenAI, upstream: Upstream, prompt: Any
) -> None:
    upstream.script = whole(200, text("one"))
    client.completions.create(model=MODEL, prompt=prompt)
    assert upstream.asked[0].json()["prompt"] == prompt


def test_a_stream_comes_without_the_usage_nobody_asked_for(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = streaming(
        [piece(choice(0, "Hel")), piece(choice(0, "lo", "stop")), piece(usage=USAGE), DONE]
    )
    stream = client.completions.create(
        model=MODEL, prompt="a", stream=True, extra_headers={"x-request-id": "text-1"}
    )
    found = list(stream)
    assert [each.choices[0].text for each in found] == ["Hel", "lo"]
    assert found[-1].choices[0].finish_reason == "stop"
    assert upstream.asked[0].json()["stream_options"] == {"include_usage": True}
    row = gateway.usage_row("text-1")
    assert (row["endpoint"], row["stream"], row["finish_reason"]) == ("completions", True, "stop")
    assert (row["tokens_input"], row["tokens_output"], row["estimated"]) == (5, 2, False)


def test_a_stream_comes_with_the_usage_that_was_asked_for(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming([piece(choice(0, "a", "stop")), piece(usage=USAGE), DONE])
    stream = client.completions.create(
        model=MODEL, prompt="a", stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 7


def test_a_stream_that_is_cut_ends_in_an_error_and_without_done(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = streaming([piece(choice(0, "a", "stop")), piece(choice(1, "b"))])
    answered = gateway.post("/v1/completions", {"model": MODEL, "prompt": "a", "stream": True})
    assert answered.status == 200
    assert b'"error"' in answered.body
    assert b"[DONE]" not in answered.body


def test_an_error_in_the_stream_is_told_in_band(client: openai.OpenAI, upstream: Upstream) -> None:
    failure = event({"error": {"message": "It broke.", "type": "server_error"}})
    upstream.script = streaming([piece(choice(0, "a")), failure])
    stream = client.completions.create(model=MODEL, prompt="a", stream=True)
    with pytest.raises(openai.APIError, match="It broke"):
        list(stream)


def test_a_server_that_does_not_stream_answers_all_the_same(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, text("one", "two"))
    stream = client.completions.create(model=MODEL, prompt=["a", "b"], stream=True)
    assert [each.text for chunk in stream for each in chunk.choices] == ["one", "two"]


@pytest.mark.parametrize("answer", [b"x", {}, {"choices": []}, [], completion(), {"error": "no"}])
def test_what_is_no_answer_is_no_success(gateway: Gateway, upstream: Upstream, answer: Any) -> None:
    upstream.script = whole(200, answer)
    answered = gateway.post("/v1/completions", {"model": MODEL, "prompt": "a"})
    assert answered.status == 502


def test_a_caller_who_leaves_a_stream_is_noticed_upstream(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming([piece(choice(0, "a"))] * 50, pause_s=0.2)
    stream = client.completions.create(model=MODEL, prompt="a", stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: len(upstream.left) == 1, seconds=2)


# --- upstreams that only chat -------------------------------------------------------------------


def test_the_prompt_is_the_users_message(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = chatting(completion("Paris."))
    answer = client.completions.create(
        model=fresh(gateway), prompt="The capital of France is", max_tokens=5, temperature=0.0
    )
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "Paris."
    assert answer.choices[0].finish_reason == "stop"
    (chat,) = chats(upstream)
    assert chat["messages"] == [{"role": "user", "content": "The capital of France is"}]
    assert (chat["max_tokens"], chat["temperature"]) == (5, 0.0)
    assert chat.keys() == {"messages", "model", "max_tokens", "temperature"}


@pytest.mark.parametrize("body", [b"<html>nothing</html>", b'{"detail":"Not Found"}'])
def test_a_404_of_any_sort_means_that_there_are_none(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream, body: bytes
) -> None:
    upstream.script = chatting(completion("Paris."), chat_only=body)
    answer = client.completions.create(model=fresh(gateway), prompt="a")
    assert answer.choices[0].text == "Paris."


def test_a_model_that_only_chats_is_not_asked_for_text_again(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = chatting(completion("Paris."))
    model = fresh(gateway)
    for _ in range(2):
        client.completions.create(model=model, prompt="a")
    assert [each.path for each in upstream.asked] == [
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/chat/completions",
    ]


def test_a_list_is_one_call_per_prompt_with_usage_summed(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = chatting(*(completion(each) for each in "abcd"))
    answer = client.completions.create(
        model=fresh(gateway),
        prompt=["one ", "two "],
        n=2,
        echo=True,
        extra_headers={"x-request-id": "text-2"},
    )
    assert [each.index for each in answer.choices] == [0, 1, 2, 3]
    assert [each.text for each in answer.choices] == ["one a", "one b", "two c", "two d"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 48
    row = gateway.usage_row("text-2")
    assert row["tokens_input"] + row["tokens_output"] == 48


def test_a_streamed_list_is_numbered_through_and_ends_once(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        if asked.path == "/v1/completions":
            peer.answer(404, b"{}")
        else:
            await streaming(chunks("Hel", "lo"))(asked, peer)

    upstream.script = script
    stream = client.completions.create(
        model=fresh(gateway),
        prompt=["a: ", "b: "],
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-request-id": "text-3"},
    )
    found = list(stream)
    said = ["", ""]
    for each in found[:-1]:
        assert each.usage is None
        said[each.choices[0].index] += each.choices[0].text
    assert said == ["a: Hello", "b: Hello"]
    assert len({each.id for each in found}) == 1
    assert [each.choices[0].finish_reason for each in found[:-1]].count("stop") == 2
    assert found[-1].usage is not None
    assert found[-1].usage.total_tokens == 22
    row = gateway.usage_row("text-3")
    assert (row["tokens_input"], row["tokens_output"]) == (18, 4)


def test_log_probabilities_are_told_in_the_legacy_shape(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    answer = completion("Hi you")
    entries = [
        {"token": token, "logprob": -0.5, "top_logprobs": [{"token": token, "logprob": -0.5}]}
        for token in ("Hi", " you")
    ]
    answer["choices"][0]["logprobs"] = {"content": entries, "refusal": None}
    upstream.script = chatting(answer)
    found = client.completions.create(model=fresh(gateway), prompt="a", logprobs=1)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["Hi", " you"]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.top_logprobs == [{"Hi": -0.5}, {" you": -0.5}]
    assert logprobs.text_offset == [0, 2]
    assert (chats(upstream)[0]["logprobs"], chats(upstream)[0]["top_logprobs"]) == (True, 1)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": [1, 2]}),
        ("prompt", {"prompt": [[1, 2]]}),
        ("prompt", {"prompt": ["a"] * 129}),
        ("suffix", {"prompt": "a", "suffix": "b"}),
        ("best_of", {"prompt": "a", "best_of": 2}),
        ("echo", {"prompt": "a", "echo": True, "logprobs": 0}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_chat_cannot_do_is_refused_by_name(
    gateway: Gateway, upstream: Upstream, param: str, fields: dict[str, Any], stream: bool
) -> None:
    upstream.script = chatting(completion())
    request = {"model": fresh(gateway), "stream": stream, **fields}
    answered = gateway.post("/v1/completions", request)
    assert answered.status == 400
    assert answered.json()["error"]["param"] == param
    assert chats(upstream) == []


def test_a_model_that_does_not_exist_is_asked_for_once(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = chatting(chat_only={**CHAT_ONLY, "code": "model_not_found"})
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=fresh(gateway), prompt="a")
    assert len(upstream.asked) == 1
