"""The Anthropic adapter against a scripted upstream: what leaves, what comes back, what fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from chat.errors import (
    GatewayError,
    ToolChoiceNotMet,
    UpstreamCredentials,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from chat.types import Batch, Reply
from providers.adapters.anthropic import API_VERSION, AnthropicAdapter
from providers.adapters.anthropic_stream import MessageStreamReader
from providers.adapters.base import Endpoint
from providers.http import HttpClient
from providers.registry import adapter_class
from tests.anthropic_upstream import (
    SIGNED,
    error,
    event,
    message,
    stream,
    text,
    text_block,
    thinking_block,
    tool_block,
    tool_use,
)
from tests.providers.raw_upstream import answering, serving
from tests.providers.test_anthropic_stream import folded
from tests.upstream import Asked, Upstream, scripted_upstream, silence, streaming, whole

pytestmark = pytest.mark.once
SECRET = "sk-ant-test-0123456789"
NATIVE = {
    "model": "claude/claude-sonnet-4-5",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "Hello"}],
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "a_field_of_next_year": {"kept": [1, None]},
}


@pytest.fixture(scope="module")
def _upstream() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture
def upstream(_upstream: Upstream) -> Upstream:
    _upstream.script, _upstream.asked = silence, []
    return _upstream


@pytest.fixture
async def adapter(upstream: Upstream, client: HttpClient) -> AsyncIterator[AnthropicAdapter]:
    yield adapter_at(f"http://127.0.0.1:{upstream.port}", client)


def adapter_at(base_url: str, client: HttpClient) -> AnthropicAdapter:
    endpoint = Endpoint(base_url=base_url, api_key=SECRET, model="claude-sonnet-4-5")
    return AnthropicAdapter(endpoint, client)


def asking(**fields: Any) -> ChatRequest:
    """A request in the OpenAI shape."""
    body = {"model": "x", "messages": [{"role": "user", "content": "Hello"}], **fields}
    return parse_chat_request(json.dumps(body).encode())


def native(headers: dict[str, str] | None = None, **fields: Any) -> ChatRequest:
    """A request of a caller on Anthropic's wire."""
    request = asking(**fields)
    request.wire = "anthropic"
    request.native = {**NATIVE, **fields}
    request.native_headers = headers or {}
    return request


async def batches(adapter: AnthropicAdapter, request: ChatRequest) -> list[Batch]:
    return [batch async for batch in adapter.stream(request)]


async def ask(adapter: AnthropicAdapter, request: ChatRequest) -> Reply | list[Batch]:
    return await (batches(adapter, request) if request.stream else adapter.complete(request))


def only(upstream: Upstream) -> Asked:
    (asked,) = upstream.asked
    return asked


# --- what leaves --------------------------------------------------------------------------------


def test_the_registry_knows_the_kind() -> None:
    assert adapter_class("anthropic") is AnthropicAdapter


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_end_in_v1_or_not(
    upstream: Upstream, client: HttpClient, suffix: str
) -> None:
    upstream.script = whole(200, message(text("Hi")))
    await adapter_at(f"http://127.0.0.1:{upstream.port}{suffix}", client).complete(asking())
    assert only(upstream).path == "/v1/messages"


async def test_the_credential_and_the_version_go_in_headers(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(text("Hi")))
    await adapter.complete(asking())
    headers = only(upstream).headers
    assert headers["x-api-key"] == SECRET
    assert headers["anthropic-version"] == API_VERSION
    assert headers["content-type"] == "application/json"
    assert "authorization" not in headers


async def test_a_native_body_goes_up_untouched_but_for_the_model(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(text("Hi")))
    request = native(api_base="http://evil.example")
    await adapter.complete(request)
    assert only(upstream).json() == {**NATIVE, "model": "claude-sonnet-4-5"}
    assert request.dropped == {"api_base"}


async def test_a_native_callers_version_and_betas_go_along_and_nothing_else(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(text("Hi")))
    told = {"anthropic-version": "2026-10-21", "anthropic-beta": "a-1,b-2", "x-api-key": "gw-x"}
    await adapter.complete(native(told))
    headers = only(upstream).headers
    assert headers["anthropic-version"] == "2026-10-21"
    assert headers["anthropic-beta"] == "a-1,b-2"
    assert headers["x-api-key"] == SECRET


async def test_an_answer_that_is_not_streamed_is_not_asked_for_as_a_stream(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(text("Hi")))
    await adapter.complete(asking())
    assert "stream" not in only(upstream).json()


# --- whole answers ------------------------------------------------------------------------------


async def test_a_native_answer_comes_down_byte_for_byte(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    body = json.dumps(message(SIGNED, text("Hi"), odd=1), indent=1).encode()
    upstream.script = whole(200, body)
    reply = await adapter.complete(native())
    assert (reply.body, reply.wire, reply.finish_reason) == (body, "anthropic", "stop")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (60, 7)


async def test_a_message_is_a_completion(upstream: Upstream, adapter: AnthropicAdapter) -> None:
    hidden = {"type": "redacted_thinking", "data": "opaque=="}
    server = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    calls = tool_use("toolu_1", "get_weather", city="Paris"), tool_use("toolu_2", "now")
    upstream.script = whole(
        200, message(SIGNED, hidden, text("I"), server, text(" ask."), *calls, stop="tool_use")
    )
    reply = await adapter.complete(asking())
    told = json.loads(reply.body)
    assert told.pop("created") > 0
    assert told == {
        "id": "msg_1",
        "object": "chat.completion",
        "model": "claude-sonnet-4-5-20250929",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "I ask.",
                    "refusal": None,
                    "reasoning_content": "Let me see.",
                    "thinking_blocks": [SIGNED, hidden],
                    "tool_calls": [
                        {
                            "id": "toolu_1",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                        },
                        {
                            "id": "toolu_2",
                            "type": "function",
                            "function": {"name": "now", "arguments": "{}"},
                        },
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 60,
            "completion_tokens": 7,
            "total_tokens": 67,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
        },
    }


async def test_calls_alone_have_null_for_content(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(tool_use("toolu_1", "now"), stop="tool_use"))
    (choice,) = json.loads((await adapter.complete(asking())).body)["choices"]
    assert choice["message"]["content"] is None


async def test_a_refusal_and_a_pause_are_told(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(stop="refusal"))
    (choice,) = json.loads((await adapter.complete(asking())).body)["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["refusal"]
    upstream.script = whole(200, message(text("Hm"), stop="pause_turn"))
    (choice,) = json.loads((await adapter.complete(asking())).body)["choices"]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("stop", "pause_turn")


@pytest.mark.parametrize("request_", [asking(), native()])
async def test_usage_that_cannot_be_read_costs_only_the_usage(
    upstream: Upstream, adapter: AnthropicAdapter, request_: ChatRequest
) -> None:
    calls = message(tool_use("toolu_1", "now"), stop="tool_use", usage={"input_tokens": "9"})
    upstream.script = whole(200, calls)
    reply = await adapter.complete(request_)
    assert (reply.usage, reply.finish_reason) == (None, "tool_calls")


CALLED = message(text("I ask."), tool_use("toolu_1", "now"), stop="tool_use")
CALLED_STREAM = stream(text_block(0, "I ask."), tool_block(1, "toolu_1", "now"), stop="tool_use")


def demanding(client: HttpClient, upstream: Upstream) -> AnthropicAdapter:
    """An adapter for a model that cannot be forced to call."""
    url = f"http://127.0.0.1:{upstream.port}"
    return AnthropicAdapter(Endpoint(base_url=url, api_key=SECRET, model="claude-opus-5-5"), client)


def demand(**fields: Any) -> ChatRequest:
    tools = [{"type": "function", "function": {"name": "now"}}]
    return asking(tools=tools, tool_choice="required", **fields)


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_without_the_call_it_owes_is_422(
    upstream: Upstream, client: HttpClient, streams: bool
) -> None:
    words = streaming(stream(text_block(0, "No.", " Never.")))
    upstream.script = words if streams else whole(200, message(text("No.")))
    with pytest.raises(ToolChoiceNotMet) as caught:
        await ask(demanding(client, upstream), demand(stream=streams))
    assert (caught.value.http_status, caught.value.code) == (422, "tool_choice_not_met")


async def test_an_answer_with_the_call_it_owes_is_whole(
    upstream: Upstream, client: HttpClient
) -> None:
    upstream.script = whole(200, CALLED)
    reply = await demanding(client, upstream).complete(demand())
    assert reply.finish_reason == "tool_calls"
    upstream.script = streaming(CALLED_STREAM, pause_s=0.001)
    got = await batches(demanding(client, upstream), demand(stream=True))
    (choice,) = folded([chunk for batch in got for chunk in batch.chunks])["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I ask.", "tool_calls")


async def test_an_owed_call_does_not_hide_another_end(
    upstream: Upstream, client: HttpClient
) -> None:
    upstream.script = streaming(stream(text_block(0, "No."), stop="max_tokens"), pause_s=0.001)
    got = await batches(demanding(client, upstream), demand(stream=True))
    (choice,) = folded([chunk for batch in got for chunk in batch.chunks])["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("No.", "length")


# --- streams ------------------------------------------------------------------------------------


async def test_a_native_stream_comes_down_byte_for_byte(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    packets = stream(thinking_block(0, "Hm", signature="s=="), text_block(1, "Hi"))
    upstream.script = streaming(packets, pause_s=0.001)
    got = await batches(adapter, native(stream=True))
    assert b"".join(batch.wire or b"" for batch in got) == b"".join(packets)


async def test_chunks_come_as_the_events_do(upstream: Upstream, adapter: AnthropicAdapter) -> None:
    upstream.script = streaming(stream(text_block(0, "a", "b")), pause_s=0.03)
    times = []
    async for batch in adapter.stream(asking(stream=True)):
        assert batch.wire is None
        times.append(asyncio.get_running_loop().time())
    assert len(times) == 5
    assert times[-1] - times[0] > 0.1


async def test_a_server_that_does_not_stream_is_understood(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(text("Hi")))
    (batch,) = await batches(adapter, asking(stream=True))
    assert batch.chunks[0].choices[0].delta.content == "Hi"
    assert batch.chunks[-1].usage is not None


async def test_a_caller_who_leaves_hangs_up_on_the_upstream(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = streaming(stream(text_block(0, *"abcdef")), pause_s=0.2)
    source = adapter.stream(asking(stream=True))
    await anext(source)
    await source.aclose()
    for _ in range(100):
        if upstream.left:
            break
        await asyncio.sleep(0.01)
    assert len(upstream.left) == 1


async def test_the_connection_is_used_again_after_a_stream(client: HttpClient) -> None:
    body = b"".join(stream(text_block(0, "Hi")))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    async with serving(answering(head % len(body) + body)) as server:
        adapter = adapter_at(f"http://127.0.0.1:{server.port}", client)
        for _ in range(3):
            await batches(adapter, asking(stream=True))
        assert server.connections == 1


# --- failures -----------------------------------------------------------------------------------

FAILURES: list[tuple[int, str, type[UpstreamError], int, bool]] = [
    (400, "invalid_request_error", UpstreamRejected, 400, False),
    (401, "authentication_error", UpstreamCredentials, 502, False),
    (402, "billing_error", UpstreamCredentials, 502, False),
    (403, "permission_error", UpstreamCredentials, 502, False),
    (404, "not_found_error", UpstreamRejected, 404, False),
    (413, "request_too_large", UpstreamRejected, 413, False),
    (429, "rate_limit_error", UpstreamRateLimited, 429, True),
    (500, "api_error", UpstreamFailed, 502, True),
    (504, "timeout_error", UpstreamTimeout, 504, True),
    (529, "overloaded_error", UpstreamOverloaded, 503, True),
]


@pytest.mark.parametrize("request_", [asking(), asking(stream=True), native(), native(stream=True)])
@pytest.mark.parametrize(("status", "told", "kind", "shown", "retryable"), FAILURES)
async def test_every_status_is_its_error(
    upstream: Upstream,
    adapter: AnthropicAdapter,
    request_: ChatRequest,
    status: int,
    told: str,
    kind: type[UpstreamError],
    shown: int,
    retryable: bool,
) -> None:
    upstream.script = whole(status, error(told), retry_after="7")
    with pytest.raises(kind) as caught:
        await ask(adapter, request_)
    assert (caught.value.http_status, caught.value.retryable) == (shown, retryable)
    if status in (429, 529):
        assert caught.value.retry_after == "7"


@pytest.mark.parametrize(("status", "told", "kind", "shown", "retryable"), FAILURES)
async def test_an_error_event_is_the_same_error(
    upstream: Upstream,
    adapter: AnthropicAdapter,
    status: int,
    told: str,
    kind: type[UpstreamError],
    shown: int,
    retryable: bool,
) -> None:
    upstream.script = streaming([event("error", error=error(told)["error"])])
    with pytest.raises(kind) as caught:
        await batches(adapter, asking(stream=True))
    assert (caught.value.http_status, caught.value.retryable) == (shown, retryable)


async def test_a_prompt_too_long_has_openais_code(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    told = "prompt is too long: 210000 tokens > 200000 maximum"
    upstream.script = whole(400, error("invalid_request_error", told))
    with pytest.raises(UpstreamRejected, match="too long") as caught:
        await adapter.complete(asking())
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


async def test_an_empty_account_is_the_gateways_trouble(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    told = "Your credit balance is too low to access the Anthropic API."
    upstream.script = whole(400, error("invalid_request_error", told))
    with pytest.raises(UpstreamCredentials):
        await adapter.complete(asking())


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("request_", [asking(), native(), asking(stream=True), native(stream=True)])
async def test_no_error_tells_our_credential_or_the_address(
    upstream: Upstream, adapter: AnthropicAdapter, status: int, request_: ChatRequest
) -> None:
    told = f"{SECRET} at http://127.0.0.1:{upstream.port}/v1 is wrong"
    upstream.script = whole(status, error("invalid_request_error", told))
    with pytest.raises(GatewayError) as caught:
        await ask(adapter, request_)
    assert SECRET not in caught.value.message
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("request_", [asking(), native()])
@pytest.mark.parametrize(
    "body", [b"<html>", b"{", b"[]", b"null", b"{}", b'{"content": 1}', b'{"type": "message"}']
)
async def test_a_200_that_holds_no_message_is_a_failure(
    upstream: Upstream, adapter: AnthropicAdapter, request_: ChatRequest, body: bytes
) -> None:
    upstream.script = whole(200, body)
    with pytest.raises(UpstreamFailed):
        await adapter.complete(request_)


async def test_an_answer_without_a_reason_is_no_stop(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, message(text("Hi"), stop=None))
    with pytest.raises(UpstreamFailed):
        await adapter.complete(asking())


@pytest.mark.parametrize("request_", [asking(stream=True), native(stream=True)])
async def test_a_stream_that_is_cut_off_fails_after_what_came(
    upstream: Upstream, adapter: AnthropicAdapter, request_: ChatRequest
) -> None:
    upstream.script = streaming(stream(text_block(0, "Hi"))[:-1])
    got = []
    with pytest.raises(UpstreamUnreachable, match="broke off"):
        async for batch in adapter.stream(request_):
            got.append(batch)
    assert got


async def test_a_failed_stream_leaves_the_cyclic_collector_nothing(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    """M2: an error that holds its frame, whose reader holds the error, would wait for it."""
    told = event("error", error=error("api_error")["error"])
    upstream.script = streaming([*stream(text_block(0, "Hi"))[:4], told])
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(UpstreamFailed):
            await batches(adapter, asking(stream=True))
        # `isinstance` would wake the lazy objects of whatever ran before.
        kept = [each for each in gc.get_objects() if type(each) is MessageStreamReader]
    finally:
        gc.enable()
    assert kept == []


# --- counting and listing -----------------------------------------------------------------------


async def test_tokens_are_counted_by_the_upstream(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, {"input_tokens": 14})
    body = {name: NATIVE[name] for name in ("model", "messages", "system")}
    reply = await adapter.count_tokens(body, {"anthropic-beta": "a-1"})
    assert (json.loads(reply.body), reply.wire) == ({"input_tokens": 14}, "anthropic")
    asked = only(upstream)
    assert asked.path == "/v1/messages/count_tokens"
    assert asked.json() == {**body, "model": "claude-sonnet-4-5"}
    assert asked.headers["anthropic-beta"] == "a-1"


async def test_a_chats_prompt_is_counted_without_what_is_no_prompt(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(200, {"input_tokens": 14})
    asked_for = asking(max_tokens=9, temperature=0.5, stop=["x"], stream=True)
    assert await adapter.count_prompt(asked_for) == 14
    asked = only(upstream)
    assert asked.path == "/v1/messages/count_tokens"
    assert set(asked.json()) <= {"model", "messages", "system"}


async def test_a_count_that_fails_is_the_upstreams_error(
    upstream: Upstream, adapter: AnthropicAdapter
) -> None:
    upstream.script = whole(529, error("overloaded_error"))
    with pytest.raises(UpstreamOverloaded):
        await adapter.count_tokens(NATIVE, {})


def page(*names: str, more: bool) -> bytes:
    listed = [
        {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "2025-02-19T00:00:00Z",
            "max_input_tokens": 200_000,
        }
        for name in names
    ]
    body = json.dumps({"data": listed, "has_more": more, "last_id": names[-1]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def test_every_page_of_the_models_is_read(client: HttpClient) -> None:
    pages = page("claude-a", "claude-b", more=True), page("claude-c", more=False)
    async with serving(answering(*pages)) as server:
        models = await adapter_at(f"http://127.0.0.1:{server.port}/v1", client).list_models()
    assert [model.id for model in models] == ["claude-a", "claude-b", "claude-c"]
    assert (models[0].created, models[0].context_window) == (1_739_923_200, 200_000)
    first, second = (request.split(b"\r\n")[0] for request in server.requests)
    assert first == b"GET /v1/models?limit=1000 HTTP/1.1"
    assert second == b"GET /v1/models?limit=1000&after_id=claude-b HTTP/1.1"


async def test_pages_without_an_end_are_not_read_for_ever(client: HttpClient) -> None:
    async with serving(answering(page("claude-a", more=True))) as server:
        await adapter_at(f"http://127.0.0.1:{server.port}", client).list_models()
        assert len(server.requests) == 20


async def test_a_list_that_is_none_is_a_protocol_failure(client: HttpClient) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    async with serving(answering(answer)) as server:
        with pytest.raises(UpstreamUnreachable) as caught:
            await adapter_at(f"http://127.0.0.1:{server.port}", client).list_models()
    assert caught.value.kind == "protocol"
