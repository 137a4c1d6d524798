"""Ollama's own Python client against a gateway whose provider speaks OpenAI's wire, and the OpenAI
SDK against one that speaks Ollama's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import ollama
import openai
import pytest

from tests.gateway import KEY, Gateway
from tests.upstream import (
    DONE,
    NDJSON,
    Asked,
    Peer,
    Script,
    Upstream,
    chat_line,
    chunk,
    chunks,
    completion,
    last_line,
    streaming,
    usage_chunk,
    whole,
)

MODEL = "scripted/gpt-4o-mini"
HELLO = [{"role": "user", "content": "Hello"}]
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def client(mixed_gateway: Gateway) -> Iterator[ollama.Client]:
    with ollama.Client(host=mixed_gateway.url, headers=BEARER) as client:
        yield client


@pytest.fixture
async def async_client(mixed_gateway: Gateway) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=mixed_gateway.url, headers=BEARER) as client:
        yield client


@pytest.fixture
def openai_client(mixed_gateway: Gateway) -> Iterator[openai.OpenAI]:
    url = f"{mixed_gateway.url}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
      city: its name
    """
    return f"sunny in {city}"


# --- chat ---------------------------------------------------------------------------------------


def test_chat_returns_the_message_and_the_counts(client: ollama.Client, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Hello there."))
    answer = client.chat(model=MODEL, messages=HELLO, options={"temperature": 0, "num_ctx": 4096})
    assert answer.message.content == "Hello there."
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (9, 3)


def test_chat_streams(client: ollama.Client, upstream: Upstream) -> None:
    upstream.script = streaming(chunks("Hel", "lo", " \u2028there"))
    told = list(client.chat(model=MODEL, messages=HELLO, stream=True))
    assert "".join(each.message.content or "" for each in told) == "Hello \u2028there"
    assert told[-1].done
    assert told[-1].eval_count == 3


async def test_chat_answers_the_async_client(
    async_client: ollama.AsyncClient, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Hello there."))
    answer = await async_client.chat(model=MODEL, messages=HELLO)
    assert answer.message.content == "Hello there."


async def test_chat_streams_to_the_async_client(
    async_client: ollama.AsyncClient, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hel", "lo"))
    stream = await async_client.chat(model=MODEL, messages=HELLO, stream=True)
    assert "".join([each.message.content or "" async for each in stream]) == "Hello"


def test_thinking_is_its_own_field(client: ollama.Client, upstream: Upstream) -> None:
    pieces = [chunk(reasoning_content="Hm. "), chunk(content="Yes."), chunk("stop"), DONE]
    upstream.script = streaming(pieces)
    told = list(client.chat(model=MODEL, messages=HELLO, think=True, stream=True))
    assert "".join(each.message.thinking or "" for each in told) == "Hm. "
    assert "".join(each.message.content or "" for each in told) == "Yes."


def test_an_empty_result_of_a_tool_is_no_missing_one(
    client: ollama.Client, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Done."))
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    history: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": ""},
    ]
    client.chat(model=MODEL, messages=history)
    assert upstream.asked[0].json()["messages"][2]["content"] == ""


def test_an_error_has_its_message_and_status(client: ollama.Client, upstream: Upstream) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(model="nobody/x", messages=HELLO)
    assert caught.value.status_code == 404
    assert "nobody/x" in caught.value.error


def test_an_error_in_a_stream_has_its_message(client: ollama.Client, upstream: Upstream) -> None:
    broken = b'data: {"error": {"message": "out of memory"}}\n\n'
    upstream.script = streaming([chunk(content="Hel"), broken], pause_s=0.1)
    with pytest.raises(ollama.ResponseError, match="out of memory"):
        list(client.chat(model=MODEL, messages=HELLO, stream=True))


# --- a tool loop of three turns -----------------------------------------------------------------


def asks_twice(openai_wire: bool) -> Script:
    """A model that asks for the weather of Paris, then of Rome, and then compares them."""

    async def script(asked: Asked, peer: Peer) -> None:
        results = sum(each["role"] == "tool" for each in asked.json()["messages"])
        city = ("Paris", "Rome", None)[results]
        play = said_on_openais_wire(city) if openai_wire else said_on_ollamas_wire(city)
        await play(asked, peer)

    return script


def said_on_openais_wire(city: str | None) -> Script:
    if city is None:
        return streaming(chunks("Both", " sunny."))
    function = {"name": "get_weather", "arguments": ""}
    call = {"index": 0, "id": f"call_{city}", "type": "function", "function": function}
    halves = ('{"city":', f'"{city}"' + "}")
    fragments = [
        chunk(tool_calls=[{"index": 0, "function": {"arguments": half}}]) for half in halves
    ]
    pieces = [chunk(role="assistant", content=None, tool_calls=[call]), *fragments]
    return streaming([*pieces, chunk("tool_calls"), usage_chunk(9, 5), DONE])


def said_on_ollamas_wire(city: str | None) -> Script:
    if city is None:
        pieces = [chat_line(content="Both"), chat_line(content=" sunny."), last_line()]
    else:
        call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
        pieces = [chat_line(thinking="Hm."), chat_line(tool_calls=[call]), last_line()]
    return streaming(pieces, content_type=NDJSON)


@pytest.mark.parametrize("model", [MODEL, "llama/qwen3"])
def test_a_tool_loop_runs_in_ollamas_words(
    client: ollama.Client, upstream: Upstream, model: str
) -> None:
    upstream.script = asks_twice(openai_wire=model == MODEL)
    messages: list[Any] = [{"role": "user", "content": "Compare Paris and Rome."}]
    text = ""
    for _ in range(3):
        told = list(client.chat(model=model, messages=messages, tools=[get_weather], stream=True))
        calls = [call for each in told for call in each.message.tool_calls or ()]
        text = "".join(each.message.content or "" for each in told)
        if not calls:
            break
        messages.append(ollama.Message(role="assistant", content=text, tool_calls=calls))
        for call in calls:
            result = get_weather(**call.function.arguments)
            messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
    assert text == "Both sunny."
    assert len(upstream.asked) == 3
    last = upstream.asked[-1].json()["messages"]
    assert [each["content"] for each in last if each["role"] == "tool"] == [
        "sunny in Paris",
        "sunny in Rome",
    ]
    if model == MODEL:
        ids = [call["id"] for each in last for call in each.get("tool_calls") or ()]
        assert ids == [each["tool_call_id"] for each in last if each["role"] == "tool"]
        assert len(set(ids)) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_runs_in_openais_words_over_ollama(
    openai_client: openai.OpenAI, upstream: Upstream, stream: bool
) -> None:
    upstream.script = asks_twice(openai_wire=False) if stream else asks_twice_whole
    tool = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    messages: list[Any] = [{"role": "user", "content": "Compare Paris and Rome."}]
    for _ in range(3):
        message = ask(openai_client, messages, tool, stream=stream)
        if not message.tool_calls:
            break
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert message.content == "Both sunny."
    last = upstream.asked[-1].json()["messages"]
    results = [each for each in last if each["role"] == "tool"]
    assert [each["content"] for each in results] == ["sunny in Paris", "sunny in Rome"]
    assert {each["tool_name"] for each in results} == {"get_weather"}


def ask(client: openai.OpenAI, messages: list[Any], tool: Any, *, stream: bool) -> Any:
    tools: Any = [{"type": "function", "function": tool}]
    model = "llama/qwen3:latest"
    if not stream:
        answer = client.chat.completions.create(model=model, messages=messages, tools=tools)
        return answer.choices[0].message
    with client.chat.completions.stream(model=model, messages=messages, tools=tools) as events:
        return events.get_final_completion().choices[0].message


async def asks_twice_whole(asked: Asked, peer: Peer) -> None:
    results = sum(each["role"] == "tool" for each in asked.json()["messages"])
    city = ("Paris", "Rome", None)[results]
    message: dict[str, Any] = {"role": "assistant", "content": "" if city else "Both sunny."}
    if city:
        function = {"name": "get_weather", "arguments": {"city": city}}
        message["tool_calls"] = [{"function": function}]
    body = {"model": "qwen3", "message": message, "done": True, "done_reason": "stop"}
    peer.answer(200, json.dumps({**body, "prompt_eval_count": 9, "eval_count": 3}).encode())


# --- generate, models ---------------------------------------------------------------------------


def test_generate_answers_and_streams(client: ollama.Client, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Blue."))
    assert client.generate(model=MODEL, prompt="Why?", system="Be brief.").response == "Blue."
    upstream.script = streaming(chunks("Bl", "ue."))
    told = list(client.generate(model=MODEL, prompt="Why?", stream=True))
    assert "".join(each.response or "" for each in told) == "Blue."
    assert told[-1].done


async def test_generate_answers_the_async_client(
    async_client: ollama.AsyncClient, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Bl", "ue."))
    stream = await async_client.generate(model=MODEL, prompt="Why?", stream=True)
    assert "".join([each.response or "" async for each in stream]) == "Blue."


def test_list_tells_the_names_of_v1_models(
    client: ollama.Client, openai_client: openai.OpenAI
) -> None:
    names = {model.model for model in client.list().models}
    assert {MODEL, "smart", "llama/qwen3:latest"} <= names
    assert names == {model.id for model in openai_client.models.list()}


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}:latest", "gpt-4o-mini", "smart"])
def test_show_tells_what_a_model_can_do(client: ollama.Client, name: str) -> None:
    shown = client.show(name)
    assert {"completion", "tools", "vision"} <= set(shown.capabilities or ())


def test_show_tells_what_an_ollama_server_told(client: ollama.Client) -> None:
    shown = client.show("llama/qwen3:latest")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo is not None
    assert 40960 in shown.modelinfo.values()


def test_show_of_a_model_nobody_has_is_404(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.show("scripted/nothing")
    assert caught.value.status_code == 404


async def test_list_show_and_ps_answer_the_async_client(async_client: ollama.AsyncClient) -> None:
    names = {model.model for model in (await async_client.list()).models}
    assert MODEL in names
    assert (await async_client.show("llama/qwen3:latest")).modelinfo
    (running,) = (await async_client.ps()).models
    assert (running.model, running.size) == ("llama/qwen3:latest", 5)


def test_list_show_and_ps_hold_the_same_names(client: ollama.Client) -> None:
    listed = {model.model for model in client.list().models}
    assert {model.model for model in client.ps().models} <= listed
    assert all(len(model.digest or "") == 64 for model in client.list().models)


# --- the OpenAI SDK over Ollama -----------------------------------------------------------------


def test_the_openai_sdk_streams_over_ollama(
    openai_client: openai.OpenAI, upstream: Upstream
) -> None:
    pieces = [chat_line(thinking="Hm."), chat_line(content="Hel"), chat_line(content="lo")]
    upstream.script = streaming([*pieces, last_line()], content_type=NDJSON)
    stream = openai_client.chat.completions.create(
        model="llama/qwen3:latest",
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    told = list(stream)
    deltas = [each.choices[0].delta for each in told if each.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Hello"
    assert "".join(getattr(delta, "reasoning_content", "") or "" for delta in deltas) == "Hm."
    assert len({each.id for each in told}) == 1
    assert told[-1].usage is not None
    assert told[-1].usage.total_tokens == 12


def test_the_openai_sdk_is_told_of_an_ollama_error(
    openai_client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(404, {"error": "model 'x' not found"})
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.chat.completions.create(
            model="llama/x", messages=[{"role": "user", "content": "Hello"}]
        )
    assert caught.value.code == "model_not_found"
    assert "model 'x' not found" in caught.value.message


def test_a_stream_of_ollama_that_breaks_is_an_api_error(
    openai_client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming([chat_line(content="Hel")], content_type=NDJSON)
    stream = openai_client.chat.completions.create(
        model="llama/qwen3", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)
