"""The Ollama adapter: what it asks, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.errors import (
    GatewayError,
    InvalidRequest,
    ToolChoiceNotMet,
    UpstreamCredentials,
    UpstreamFailed,
    UpstreamRejected,
    UpstreamUnreachable,
)
from chat.folding import CompletionFolder
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest, EmbeddingsParams, EmbeddingsRequest
from chat.types import Batch
from providers.adapters.base import Endpoint
from providers.adapters.ollama import OllamaAdapter, server_root
from providers.adapters.ollama_stream import OllamaStreamReader
from providers.capabilities import Capabilities
from providers.http import HttpClient, Timeouts
from providers.outbound import OutboundGuard, OutboundPolicy
from tests.gateway import wait_until
from tests.upstream import (
    NDJSON,
    Asked,
    Peer,
    Upstream,
    chat_line,
    last_line,
    line,
    list_models,
    scripted_upstream,
    silence,
    streaming,
    whole,
)

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 40
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}
SEARCH = {
    "type": "function",
    "function": {"name": "search", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CALL = {"function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}}
WHOLE = {
    "model": "qwen3:latest",
    "created_at": "2025-06-05T00:31:45Z",
    "message": {"role": "assistant", "content": "Hi"},
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 9,
    "eval_count": 3,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.script, server.listing, server.asked = whole(200, WHOLE), list_models, []
    return server


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    yield client
    await client.aclose()


def adapter(upstream: Upstream, http: HttpClient, **endpoint: Any) -> OllamaAdapter:
    fields = {"base_url": upstream.base_url, "api_key": "", "model": "qwen3:latest", **endpoint}
    return OllamaAdapter(Endpoint(timeouts=Timeouts(2, 5, 5, 10), **fields), http)


def wanted(**fields: Any) -> ChatRequest:
    return parse_chat_request(orjson.dumps({"messages": HELLO, **fields}))


async def payload(upstream: Upstream, http: HttpClient, **fields: Any) -> Any:
    """What the server is asked for this request."""
    await adapter(upstream, http).complete(wanted(**fields))
    (asked,) = upstream.asked
    return asked.json()


async def batches(adapter: OllamaAdapter, request: ChatRequest) -> list[Batch]:
    return [batch async for batch in adapter.stream(request)]


def folded(found: list[Batch]) -> CompletionFolder:
    folder = CompletionFolder()
    for batch in found:
        for chunk in batch.chunks:
            folder.add(chunk)
    return folder


# --- what is asked ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_address_is_the_servers_root(
    upstream: Upstream, http: HttpClient, suffix: str
) -> None:
    base_url = upstream.base_url.removesuffix("/v1") + suffix
    await adapter(upstream, http, base_url=base_url, api_key="k-123").complete(wanted())
    (asked,) = upstream.asked
    assert asked.path == "/api/chat"
    assert asked.headers["authorization"] == "Bearer k-123"


@pytest.mark.parametrize(
    ("address", "root"),
    [
        ("http://0.0.0.0", "http://127.0.0.1:11434"),
        ("http://0.0.0.0:8080/", "http://127.0.0.1:8080"),
        ("http://[::]:11434", "http://[::1]:11434"),
        ("https://ollama.com/api", "https://ollama.com"),
        ("http://box:1/ollama/v1/", "http://box:1/ollama"),
    ],
)
def test_an_address_to_listen_on_is_asked_on_loopback(address: str, root: str) -> None:
    assert server_root(address) == root


async def test_an_effort_is_dropped_where_the_model_cannot_think(
    upstream: Upstream, http: HttpClient
) -> None:
    request = wanted(reasoning_effort="low")
    asking = adapter(upstream, http, capabilities=Capabilities(reasoning=False))
    await asking.complete(request)
    assert "think" not in upstream.asked[0].json()
    assert request.dropped == {"reasoning_effort"}


async def test_sampling_fields_are_options(upstream: Upstream, http: HttpClient) -> None:
    request = wanted(
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop="END",
        max_completion_tokens=20,
        max_tokens=10,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        options={"num_ctx": 4096},
        keep_alive="5m",
        user="me",
        logit_bias={"1": 2},
        unknown=1,
    )
    await adapter(upstream, http).complete(request)
    assert upstream.asked[0].json() == {
        "model": "qwen3:latest",
        "messages": HELLO,
        "stream": False,
        "keep_alive": "5m",
        "options": {
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["END"],
            "num_predict": 20,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "num_ctx": 4096,
        },
    }
    assert request.dropped == {"user", "logit_bias", "unknown"}


async def test_the_rows_options_hold_where_the_caller_says_nothing(
    upstream: Upstream, http: HttpClient
) -> None:
    options = {"options": {"num_ctx": 8192, "temperature": 1}, "keep_alive": "1h", "think": False}
    asking = adapter(upstream, http, options=options)
    await asking.complete(wanted(temperature=0.2, reasoning_effort="high"))
    asked = upstream.asked[0].json()
    assert asked["options"] == {"num_ctx": 8192, "temperature": 0.2}
    assert (asked["keep_alive"], asked["think"]) == ("1h", "high")


@pytest.mark.parametrize(
    ("effort", "think"), [("none", False), ("low", "low"), ("medium", "medium"), ("high", "high")]
)
async def test_reasoning_effort_is_think(
    upstream: Upstream, http: HttpClient, effort: str, think: bool | str
) -> None:
    assert (await payload(upstream, http, reasoning_effort=effort))["think"] == think


async def test_an_effort_that_is_clamped_is_told(upstream: Upstream, http: HttpClient) -> None:
    request = wanted(reasoning_effort="xhigh")
    await adapter(upstream, http).complete(request)
    assert upstream.asked[0].json()["think"] == "high"
    assert request.dropped == {"reasoning_effort"}


async def test_parts_are_one_text_with_the_images_beside_it(
    upstream: Upstream, http: HttpClient
) -> None:
    encoded = base64.b64encode(PNG).decode()
    parts = [
        {"type": "text", "text": "What"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "text", "text": "is it?"},
    ]
    asked = await payload(upstream, http, messages=[{"role": "user", "content": parts}])
    assert asked["messages"] == [{"role": "user", "content": "What\nis it?", "images": [encoded]}]


async def test_a_tool_loop_is_told_by_names_and_objects(
    upstream: Upstream, http: HttpClient
) -> None:
    call = {"id": "call_7", "type": "function"}
    call["function"] = {"name": "get_weather", "arguments": '{"city": "Paris"}'}  # type: ignore[assignment]
    asked = await payload(
        upstream,
        http,
        tools=[WEATHER],
        messages=[
            {"role": "developer", "content": "Be brief."},
            *HELLO,
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hm.",
                "tool_calls": [call],
            },
            {"role": "tool", "tool_call_id": "call_7", "content": "sunny"},
        ],
    )
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked["messages"][2:] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [
                {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}},
            ],
        },
        {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
    ]


async def test_arguments_in_the_history_that_are_no_object_are_400(
    upstream: Upstream, http: HttpClient
) -> None:
    """M30"""
    call = {"id": "c", "type": "function", "function": {"name": "a", "arguments": '{"ci'}}
    history = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(InvalidRequest) as caught:
        await adapter(upstream, http).complete(wanted(messages=history))
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"
    assert upstream.asked == []


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"web_search_options": {}},
        {"functions": [{"name": "a"}]},
        {"reasoning_effort": "extreme"},
        {"response_format": {"type": "grammar"}},
        {"response_format": {"type": "json_schema"}},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "b"}}, "tools": [WEATHER]},
        {"tool_choice": {"type": "function"}, "tools": [WEATHER]},
        {"tool_choice": "maybe", "tools": [WEATHER]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}
                    ],
                }
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:text/html,x"}}],
                }
            ]
        },
        {"options": [1]},
    ],
)
async def test_what_cannot_be_asked_is_refused_without_asking(
    upstream: Upstream, http: HttpClient, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await adapter(upstream, http).complete(wanted(**fields))
    assert caught.value.param
    assert upstream.asked == []


# --- formats and tool choice --------------------------------------------------------------------


async def test_a_schema_is_the_format(upstream: Upstream, http: HttpClient) -> None:
    wished = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    asked = await payload(upstream, http, response_format=wished)
    assert asked["format"] == SCHEMA
    assert asked["messages"] == HELLO


async def test_json_mode_is_told_to_a_model_that_was_not(
    upstream: Upstream, http: HttpClient
) -> None:
    asked = await payload(upstream, http, response_format={"type": "json_object"})
    assert asked["format"] == "json"
    assert "JSON" in asked["messages"][0]["content"]
    assert asked["messages"][1:] == HELLO


async def test_no_tools_are_offered_where_none_may_be_called(
    upstream: Upstream, http: HttpClient
) -> None:
    asked = await payload(upstream, http, tools=[WEATHER], tool_choice="none")
    assert "tools" not in asked


async def test_a_named_tool_is_the_only_one_offered(upstream: Upstream, http: HttpClient) -> None:
    upstream.script = whole(200, {**WHOLE, "message": {"content": "", "tool_calls": [CALL]}})
    choice = {"type": "function", "function": {"name": "get_weather"}}
    request = wanted(tools=[WEATHER, SEARCH], tool_choice=choice)
    reply = await adapter(upstream, http).complete(request)
    asked = upstream.asked[0].json()
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["get_weather"]
    assert "get_weather" in asked["messages"][0]["content"]
    assert reply.finish_reason == "tool_calls"
    assert request.emulated == {"tool_choice"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_owed_and_does_not_come_is_422(
    upstream: Upstream, http: HttpClient, stream: bool
) -> None:
    request = wanted(tools=[WEATHER], tool_choice="required", stream=stream)
    upstream.script = whole(200, WHOLE)
    if stream:
        upstream.script = streaming([chat_line(content="No."), last_line()], content_type=NDJSON)
    with pytest.raises(ToolChoiceNotMet):
        if stream:
            async for _ in adapter(upstream, http).stream(request):
                pytest.fail("something was shown before the call came")
        else:
            await adapter(upstream, http).complete(request)


async def test_only_the_first_call_is_shown_where_one_is_allowed(
    upstream: Upstream, http: HttpClient
) -> None:
    upstream.script = whole(200, {**WHOLE, "message": {"tool_calls": [CALL, CALL]}})
    request = wanted(tools=[WEATHER], parallel_tool_calls=False)
    reply = await adapter(upstream, http).complete(request)
    assert len(orjson.loads(reply.body)["choices"][0]["message"]["tool_calls"]) == 1
    assert request.emulated == {"parallel_tools"}


# --- answers ------------------------------------------------------------------------------------


async def test_a_whole_answer_is_a_completion(upstream: Upstream, http: HttpClient) -> None:
    message = {"content": "", "thinking": "Hm.", "tool_calls": [CALL, CALL]}
    upstream.script = whole(200, {**WHOLE, "message": message})
    reply = await adapter(upstream, http).complete(wanted(tools=[WEATHER]))
    told = orjson.loads(reply.body)
    choice = told["choices"][0]
    assert told["object"] == "chat.completion"
    assert choice["finish_reason"] == "tool_calls"  # M29
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"] == "Hm."
    calls = choice["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [
        {"city": "Paris", "days": 2}
    ] * 2
    assert len({call["id"] for call in calls}) == 2
    assert all(call["id"].startswith("call_") for call in calls)
    assert told["usage"] == {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


async def test_missing_counts_are_estimated_and_marked(
    upstream: Upstream, http: HttpClient
) -> None:
    body = {name: value for name, value in WHOLE.items() if name != "prompt_eval_count"}
    upstream.script = whole(200, body)
    request = wanted()
    reply = await adapter(upstream, http).complete(request)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == request.size // 4
    assert reply.usage.completion_tokens == 3
    assert orjson.loads(reply.body)["usage"]["estimated"] is True


async def test_logprobs_are_in_openais_shape(upstream: Upstream, http: HttpClient) -> None:
    entry = {"token": "é", "logprob": -0.1, "top_logprobs": [{"token": "e", "logprob": -2.0}]}
    upstream.script = whole(200, {**WHOLE, "logprobs": [entry]})
    reply = await adapter(upstream, http).complete(wanted(logprobs=True, top_logprobs=1))
    asked = upstream.asked[0].json()
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 1)
    (told,) = orjson.loads(reply.body)["choices"][0]["logprobs"]["content"]
    assert told == {
        "token": "é",
        "logprob": -0.1,
        "bytes": [195, 169],
        "top_logprobs": [{"token": "e", "logprob": -2.0, "bytes": [101]}],
    }


@pytest.mark.parametrize(
    ("status", "body", "kind", "http_status"),
    [
        (404, {"error": "model 'x' not found"}, UpstreamRejected, 404),
        (400, {"error": "bad"}, UpstreamRejected, 400),
        (401, {"error": "unauthorized"}, UpstreamCredentials, 502),
        (500, {"error": "llama runner process has terminated"}, UpstreamFailed, 502),
        (500, b"<html>", UpstreamFailed, 502),
        (200, {"error": "no"}, UpstreamFailed, 502),
        (200, b"<html>", UpstreamFailed, 502),
        (200, {"model": "x"}, UpstreamFailed, 502),
    ],
)
async def test_failures_are_told_by_their_status(
    upstream: Upstream,
    http: HttpClient,
    status: int,
    body: Any,
    kind: type[GatewayError],
    http_status: int,
) -> None:
    upstream.script = whole(status, body)
    with pytest.raises(kind) as caught:
        await adapter(upstream, http).complete(wanted())
    assert caught.value.http_status == http_status
    if isinstance(body, dict) and "error" in body and status != 401:
        assert caught.value.message == body["error"]


async def test_a_server_that_is_not_there_is_502(http: HttpClient) -> None:
    endpoint = Endpoint(base_url="http://127.0.0.1:1", api_key="", model="x")
    with pytest.raises(UpstreamUnreachable) as caught:
        await OllamaAdapter(endpoint, http).complete(wanted())
    assert caught.value.http_status == 502


STREAM = [
    chat_line(thinking="Let me "),
    chat_line(thinking="think. é"),
    chat_line(content="Hel"),
    chat_line(content="lo \u2028 there"),
    chat_line(tool_calls=[CALL]),
    chat_line(tool_calls=[CALL, {"function": {"name": "search", "arguments": {}}}]),
    last_line(),
]


async def test_a_stream_is_thinking_text_calls_and_the_end(
    upstream: Upstream, http: HttpClient
) -> None:
    upstream.script = streaming(STREAM, content_type=NDJSON)
    found = await batches(adapter(upstream, http), wanted(stream=True, tools=[WEATHER]))
    folder = folded(found)
    choice = folder.completion()["choices"][0]
    assert choice["message"]["reasoning_content"] == "Let me think. é"
    assert choice["message"]["content"] == "Hello \u2028 there"
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == [
        "get_weather",
        "get_weather",
        "search",
    ]
    assert choice["finish_reason"] == "tool_calls"
    assert folder.usage is not None
    assert (folder.usage.prompt_tokens, folder.usage.completion_tokens) == (9, 3)
    first, *_, finish, usage = [chunk for batch in found for chunk in batch.chunks]
    assert first.choices[0].delta.role == "assistant"
    assert finish.choices[0].finish_reason == "tool_calls"
    assert usage.choices == []


async def test_arguments_in_the_history_go_up_as_they_stand(
    upstream: Upstream, http: HttpClient
) -> None:
    arguments = '{"id": 123456789012345678901234567890, "deep": ' + "[" * 400 + "]" * 400 + "}"
    call = {"id": "c", "type": "function", "function": {"name": "a", "arguments": arguments}}
    await adapter(upstream, http).complete(
        wanted(messages=[*HELLO, {"role": "assistant", "tool_calls": [call]}])
    )
    assert arguments.encode() in upstream.asked[0].body


@pytest.mark.parametrize(
    "odd",
    [
        b'{"message": {"content": "\xff"}}\n',
        b'{"message": {"content": "\\ud800"}}\n',
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"message": {"tool_calls": [{"function": {"name": "a", "arguments": [1]}}]}}\n',
        b'{"message": {"tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}}\n',
        b"null\n",
        b"5\n",
        b'{"prompt_eval_count": 1e400}\n',
    ],
    ids=["utf-8", "surrogate", "deep", "arguments", "half arguments", "null", "number", "infinite"],
)
@pytest.mark.parametrize("before", [b"", chat_line(content="Hi")])
def test_what_cannot_be_read_is_the_providers_failure(odd: bytes, before: bytes) -> None:
    reader = OllamaStreamReader(wanted(), Endpoint(base_url="", api_key="", model="x"))
    found = reader.feed(before + odd + last_line())
    assert isinstance(reader.failure, UpstreamFailed)
    text = folded([found] if found else []).completion()["choices"]
    assert not text or text[0]["message"]["content"] == ("Hi" if before else "")
    assert not text or text[0]["finish_reason"] is None


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "ending",
    [
        [last_line()],
        [last_line().rstrip()],
        [last_line("length", content="last")],
        [line({"error": "boom"})],
        [b'{"message": {"content"'],
        [b"not json\n"],
        [b'{"message": 5}\n'],
        [],
    ],
    ids=["end", "no line break", "text in the end", "error", "cut", "no json", "no shape", "none"],
)
@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 2000), max_size=12))
def test_it_does_not_matter_how_a_stream_is_cut(
    cuts: list[int], ending: list[bytes], native: bool
) -> None:
    raw = b"".join([*STREAM[:-1], *ending])
    assert outcome(raw, cuts, native=native) == outcome(raw, [], native=native)


def outcome(raw: bytes, cuts: list[int], *, native: bool) -> Any:
    """What a caller sees of a stream that arrives in these pieces."""
    request = wanted(stream=True, tools=[WEATHER])
    endpoint = Endpoint(base_url="", api_key="", model="qwen3")
    reader = OllamaStreamReader(request, endpoint, native=native)
    edges = [0, *sorted(cut for cut in set(cuts) if cut < len(raw)), len(raw)]
    found = []
    for start, end in zip(edges, edges[1:], strict=False):
        if reader.failure is None and not reader.done and start < end:
            found.append(reader.feed(raw[start:end]))
    if not reader.done and reader.failure is None:
        found.append(reader.finish())
    kept = [batch for batch in found if batch is not None]
    completion = folded(kept).completion()
    choice = completion["choices"][0]
    for call in choice["message"].get("tool_calls", ()):
        call["id"] = ""
    wire = b"".join(batch.wire or b"" for batch in kept)
    failure = reader.failure.message if reader.failure else None
    assert (failure is None) == (choice["finish_reason"] is not None)  # M26: no invented stop
    return choice, completion["usage"], wire, failure


def test_a_line_without_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.ndjson.MAX_LINE_BYTES", 1000)
    reader = OllamaStreamReader(wanted(), Endpoint(base_url="", api_key="", model="x"))
    for _ in range(3):
        reader.feed(b"x" * 500)
    assert isinstance(reader.failure, UpstreamFailed)


# --- a caller on the same wire ------------------------------------------------------------------


def native_request(native: dict[str, Any]) -> ChatRequest:
    request = wanted(stream=native.get("stream", True))
    request.wire, request.native = "ollama", native
    return request


@pytest.mark.parametrize(
    ("native", "path"),
    [
        ({"model": "llama/x", "messages": HELLO, "options": {"num_ctx": 1}, "new": 1}, "/api/chat"),
        ({"model": "llama/x", "prompt": "Hi", "raw": True, "suffix": "x"}, "/api/generate"),
    ],
)
async def test_a_native_body_goes_up_with_only_the_model_changed(
    upstream: Upstream, http: HttpClient, native: dict[str, Any], path: str
) -> None:
    upstream.script = streaming(STREAM, content_type=NDJSON)
    found = await batches(adapter(upstream, http), native_request(native))
    (asked,) = upstream.asked
    assert asked.path == path
    assert asked.json() == {**native, "model": "qwen3:latest"}
    assert b"".join(batch.wire or b"" for batch in found) == b"".join(STREAM)
    assert folded(found).usage is not None


async def test_a_native_answer_comes_down_as_it_is(upstream: Upstream, http: HttpClient) -> None:
    upstream.script = whole(200, {**WHOLE, "vendor": 1})
    request = native_request({"messages": HELLO, "stream": False})
    reply = await adapter(upstream, http).complete(request)
    assert reply.wire == "ollama"
    assert orjson.loads(reply.body) == {**WHOLE, "vendor": 1}
    assert (reply.finish_reason, reply.text_bytes) == ("stop", 2)


async def test_odd_framing_is_made_canonical(upstream: Upstream, http: HttpClient) -> None:
    odd = b"\r\n\r\n".join(each.rstrip() for each in STREAM) + b"\r\n\r\n"
    upstream.script = streaming([odd], content_type=NDJSON)
    found = await batches(adapter(upstream, http), native_request({"messages": HELLO}))
    assert b"".join(batch.wire or b"" for batch in found) == b"".join(STREAM)


# --- images by URL ------------------------------------------------------------------------------


def picture(url: str) -> ChatRequest:
    parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
    return wanted(messages=[{"role": "user", "content": parts}])


@pytest.fixture
def open_policy() -> OutboundPolicy:
    return OutboundPolicy.for_tools((ip_network("127.0.0.0/8"),))


async def test_an_image_by_url_is_fetched(
    upstream: Upstream, http: HttpClient, open_policy: OutboundPolicy
) -> None:
    upstream.listing = whole(200, PNG, content_type="image/png")
    url = f"{upstream.base_url}/a.png"
    await adapter(upstream, http, content_policy=open_policy).complete(picture(url))
    (sent,) = upstream.asked[0].json()["messages"][0]["images"]
    assert base64.b64decode(sent) == PNG


async def test_loopback_is_closed_to_urls_of_callers(upstream: Upstream, http: HttpClient) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await adapter(upstream, http).complete(picture(f"{upstream.base_url}/secret.png"))
    assert caught.value.param == "messages[0].content[1].image_url"
    assert "not permitted" in caught.value.message
    assert (upstream.asked, str(upstream.port) in caught.value.message) == ([], False)


@pytest.mark.parametrize(
    "answer",
    [
        whole(404, b"gone", content_type="image/png"),
        whole(302, b"", content_type="image/png", location="http://169.254.169.254/"),
        whole(200, b"<html>", content_type="text/html"),
        whole(200, b"<html>", content_type="image/png"),
    ],
)
async def test_what_is_no_image_is_refused(
    upstream: Upstream, http: HttpClient, open_policy: OutboundPolicy, answer: Any
) -> None:
    upstream.listing = answer
    url = f"{upstream.base_url}/a.png"
    with pytest.raises(InvalidRequest) as caught:
        await adapter(upstream, http, content_policy=open_policy).complete(picture(url))
    assert caught.value.param == "messages[0].content[1].image_url"
    assert upstream.asked == []


async def test_an_image_larger_than_its_room_is_refused(
    upstream: Upstream,
    http: HttpClient,
    open_policy: OutboundPolicy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("providers.fetch.MAX_BYTES", 60)
    upstream.listing = whole(200, PNG, content_type="image/png")
    parts = [
        {"type": "image_url", "image_url": {"url": f"{upstream.base_url}/{name}.png"}}
        for name in "ab"
    ]
    request = wanted(messages=[{"role": "user", "content": parts}])
    with pytest.raises(InvalidRequest) as caught:
        await adapter(upstream, http, content_policy=open_policy).complete(request)
    assert caught.value.param == "messages[0].content[1].image_url"
    assert "larger" in caught.value.message


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "nonsense", "http://[::1"])
async def test_other_urls_are_refused(upstream: Upstream, http: HttpClient, url: str) -> None:
    with pytest.raises(InvalidRequest):
        await adapter(upstream, http).complete(picture(url))
    assert upstream.asked == []


# --- models and embeddings ----------------------------------------------------------------------


async def test_models_are_listed_with_what_is_known_of_them(
    upstream: Upstream, http: HttpClient
) -> None:
    models = await adapter(upstream, http).list_models()
    assert [model.id for model in models] == ["qwen3:latest", "llama3.2:1b"]
    assert models[0].context_window == 40960
    assert models[0].capabilities == {
        "tools": True,
        "vision": False,
        "reasoning": True,
        "embeddings": False,
    }
    assert models[0].created == 1747494626


def embeddings(**fields: Any) -> EmbeddingsRequest:
    return EmbeddingsRequest(EmbeddingsParams(**fields), fields, 40)


async def test_embeddings_are_asked_and_told(upstream: Upstream, http: HttpClient) -> None:
    vectors = [[0.5, 1.0], [0.25, -1.0]]
    upstream.script = whole(200, {"embeddings": vectors, "prompt_eval_count": 4})
    request = embeddings(input=["a", "b"], dimensions=2, user="me")
    reply = await adapter(upstream, http).embed(request)
    (asked,) = upstream.asked
    assert asked.path == "/api/embed"
    assert asked.json() == {"model": "qwen3:latest", "input": ["a", "b"], "dimensions": 2}
    told = orjson.loads(reply.body)
    assert [each["embedding"] for each in told["data"]] == vectors
    assert told["usage"]["prompt_tokens"] == 4
    assert request.dropped == {"user"}


async def test_token_ids_are_refused(upstream: Upstream, http: HttpClient) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await adapter(upstream, http).embed(embeddings(input=[1, 2]))
    assert caught.value.param == "input"


async def test_another_number_of_vectors_is_a_failure(upstream: Upstream, http: HttpClient) -> None:
    upstream.script = whole(200, {"embeddings": [[0.5]]})
    with pytest.raises(UpstreamFailed):
        await adapter(upstream, http).embed(embeddings(input=["a", "b"]))


# --- leaving ------------------------------------------------------------------------------------


async def test_a_caller_who_leaves_frees_the_server(upstream: Upstream, http: HttpClient) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin(content_type=NDJSON)
        peer.piece(chat_line(content="Hel"))
        await silence(asked, peer)

    upstream.script = script
    stream = adapter(upstream, http).stream(wanted(stream=True))
    await anext(stream)
    await stream.aclose()
    await asyncio.to_thread(wait_until, lambda: upstream.left != [], seconds=1)
