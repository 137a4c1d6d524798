"""The Anthropic wire where an upstream speaks it too, alone and beside upstreams that do not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from chat.sse import SSEDecoder
from tests.conftest import spare_database
from tests.gateway import KEY, Answered, Gateway, configuration, wait_until
from tests.recordings import needs, recorded
from tests.upstream import (
    Asked,
    Peer,
    Script,
    Upstream,
    chunks,
    completion,
    scripted_upstream,
    silence,
    whole,
)
from tests.wire.test_openai_replay import playing

HELLO = [{"role": "user", "content": "Say hello."}]
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
CREDENTIALS = {401, 402, 403}
pytestmark = pytest.mark.once


MESSAGES = recorded("anthropic", endpoint="/v1/messages")
COUNTS = recorded("anthropic", endpoint="/v1/messages/count_tokens")
needs_recorded = needs(MESSAGES)


@pytest.fixture(scope="module")
def claude() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(claude: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a provider that speaks Anthropic, one that does not, and routes over both."""
    folder = tmp_path_factory.mktemp("native")
    settings = configuration(claude.base_url)
    settings["providers"].append(
        {
            "name": "claude",
            "kind": "anthropic",
            "base_url": claude.base_url.removesuffix("/v1"),
            "api_key": "sk-ant-0123456789",
            "max_retries": 0,
        }
    )
    chat = {"provider": "scripted", "model": "gpt-4o-mini"}
    native = {"provider": "claude", "model": "claude-sonnet-4-5"}
    settings["routes"] = [
        {"name": "chat-first", "strategy": "fallback", "targets": [chat, native]},
        {"name": "native-first", "strategy": "fallback", "targets": [native, chat]},
    ]
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(settings)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def upstream(claude: Upstream) -> Upstream:
    claude.script = silence
    claude.asked = []
    return claude


def post(gateway: Gateway, path: str, body: Any, **headers: str) -> Answered:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    all_headers = {"x-api-key": KEY, "content-type": "application/json", **named}
    return gateway.call("POST", path, json.dumps(body).encode(), all_headers)


def replay(gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]) -> Answered:
    upstream.script = playing(interaction["response"])
    request = interaction["request"]
    headers = {
        name.replace("-", "_"): value
        for name, value in request["headers"].items()
        if name.startswith("anthropic-")
    }
    sent = {**request["json"], "model": f"claude/{request['json']['model']}"}
    return post(gateway, interaction["endpoint"], sent, **headers)


def events(raw: bytes) -> list[tuple[str, Any]]:
    decoder = SSEDecoder()
    found = decoder.feed(raw) + decoder.finish()
    return [(event.type, json.loads(event.data)) for event in found]


# --- recorded conversations ---------------------------------------------------------------------


@needs_recorded
def test_the_upstream_gets_every_recorded_request_as_it_came_but_for_the_model(
    gateway: Gateway, upstream: Upstream
) -> None:
    for interaction in MESSAGES + COUNTS:
        upstream.asked = []
        replay(gateway, upstream, interaction)
        (asked,) = upstream.asked
        assert asked.path == interaction["endpoint"]
        assert asked.json() == interaction["request"]["json"], interaction["id"]
        assert asked.headers["x-api-key"] == "sk-ant-0123456789"
        assert KEY not in str(asked.headers)
        for name, value in interaction["request"]["headers"].items():
            assert asked.headers[name] == value, interaction["id"]


@needs_recorded
def test_the_caller_gets_every_recorded_answer_as_it_came(
    gateway: Gateway, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    compared: Counter[str] = Counter()
    for interaction in MESSAGES + COUNTS:
        response = interaction["response"]
        answered = replay(gateway, upstream, interaction)
        assert "x-gateway-dropped-params" not in answered.headers, interaction["id"]
        if response["status"] != 200:
            compare_errors(answered, response)
            compared["errors"] += 1
        elif response["body_text"] is None:
            assert answered.json() == response["body"], interaction["id"]
            compared["whole answers"] += 1
        else:
            assert events(answered.body) == events(response["body_text"].encode())
            compared["streams"] += 1
    with capsys.disabled():
        print(f"\nrecorded Anthropic interactions that passed through untouched: {dict(compared)}")
    assert compared.total() == len(MESSAGES) + len(COUNTS)


def compare_errors(answered: Answered, response: dict[str, Any]) -> None:
    told = answered.json()
    if response["status"] in CREDENTIALS:
        assert (answered.status, told["error"]["type"]) == (502, "api_error")
        return
    assert answered.status == response["status"]
    assert told["error"] == response["body"]["error"]
    assert told["request_id"] == answered.headers["request-id"]


@needs_recorded
def test_the_ledger_has_the_recorded_usage_of_every_message(
    gateway: Gateway, upstream: Upstream
) -> None:
    told = {}
    for interaction in MESSAGES:
        if interaction["response"]["status"] != 200:
            continue
        request_id = replay(gateway, upstream, interaction).headers["x-request-id"]
        told[request_id] = recorded_usage(interaction["response"])
    wait_until(lambda: told.keys() <= {row.request_id for row in gateway.rows()}, seconds=20)
    found = {row.request_id: (row.tokens_input, row.tokens_output) for row in gateway.rows()}
    assert {request_id: found[request_id] for request_id in told} == told


def recorded_usage(response: dict[str, Any]) -> tuple[int, int]:
    """All the input, that of the cache too, and the output."""
    if response["body_text"] is None:
        usage = response["body"]["usage"]
    else:
        usage = {}
        for kind, event in events(response["body_text"].encode()):
            if kind in ("message_start", "message_delta"):
                said = event.get("usage") or event["message"]["usage"]
                usage |= {name: value for name, value in said.items() if value is not None}
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage.get(name) or 0 for name in parts), usage["output_tokens"]


# --- who is asked -------------------------------------------------------------------------------


def by_path(scripts: dict[str, Script]) -> Script:
    async def script(asked: Asked, peer: Peer) -> None:
        await scripts[asked.path](asked, peer)

    return script


NATIVE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Native."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 3},
}


def asking(**fields: Any) -> dict[str, Any]:
    return {"max_tokens": 50, "messages": HELLO, **fields}


@pytest.mark.parametrize("route", ["chat-first", "native-first"])
def test_what_only_anthropic_can_do_goes_to_anthropic(
    gateway: Gateway, upstream: Upstream, route: str
) -> None:
    upstream.script = whole(200, NATIVE)
    request = asking(model=route, tools=[SEARCH], top_k=5)
    answered = post(gateway, "/v1/messages", request)
    assert answered.json() == NATIVE
    assert answered.headers["x-gateway-provider"] == "claude"
    (asked,) = upstream.asked
    assert asked.path == "/v1/messages"
    assert asked.json() == {**request, "model": "claude-sonnet-4-5"}


THREAD = {"type": "create"}


def test_a_thread_is_passed_on_where_no_other_upstream_can_be_asked(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, NATIVE)
    request = asking(model="claude/claude-sonnet-4-5", thread=THREAD)
    assert post(gateway, "/v1/messages", request).json() == NATIVE
    assert upstream.asked[0].json()["thread"] == THREAD


@pytest.mark.parametrize("route", ["chat-first", "native-first", "scripted/gpt-4o-mini"])
def test_a_thread_is_refused_where_the_next_request_may_go_elsewhere(
    gateway: Gateway, upstream: Upstream, route: str
) -> None:
    """In the words that make the SDK send the whole conversation instead."""
    answered = post(gateway, "/v1/messages", asking(model=route, thread=THREAD))
    assert answered.status == 400
    assert answered.json()["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }
    assert upstream.asked == []


def test_the_details_of_an_upstreams_refusal_come_through(
    gateway: Gateway, upstream: Upstream
) -> None:
    details = {"error_code": "thread_not_found"}
    told = {"type": "not_found_error", "message": "No such thread.", "details": details}
    upstream.script = whole(404, {"type": "error", "error": told})
    thread = {"type": "continue", "previous_message_id": "msg_0"}
    answered = post(
        gateway, "/v1/messages", asking(model="claude/claude-sonnet-4-5", thread=thread)
    )
    assert answered.status == 404
    assert answered.json()["error"] == told


def test_it_is_not_translated_when_anthropic_fails(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(529, {"type": "error", "error": {"type": "overloaded_error"}})
    request = asking(model="native-first", tools=[SEARCH])
    answered = post(gateway, "/v1/messages", request)
    assert answered.status == 503
    assert answered.json()["error"]["type"] == "overloaded_error"
    assert [asked.path for asked in upstream.asked] == ["/v1/messages"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_to_another_wire_is_translated(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    async def hello(asked: Asked, peer: Peer) -> None:
        if not stream:
            peer.answer(200, json.dumps(completion("Hello there.")).encode())
            return
        peer.begin()
        for piece in chunks("Hello", " there", "."):
            peer.piece(piece)
        peer.end()

    overloaded = whole(529, {"type": "error", "error": {"type": "overloaded_error"}})
    upstream.script = by_path({"/v1/messages": overloaded, "/v1/chat/completions": hello})
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        request: Any = asking(model="native-first", extra_body={"top_k": 5})
        if stream:
            with client.messages.stream(**request) as open_stream:
                message = open_stream.get_final_message()
                headers = open_stream.response.headers
        else:
            raw = client.messages.with_raw_response.create(**request)
            message, headers = raw.parse(), raw.headers
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello there."
    assert headers["x-gateway-provider"] == "scripted"
    assert headers["x-gateway-dropped-params"] == "top_k"
    assert [asked.path for asked in upstream.asked] == ["/v1/messages", "/v1/chat/completions"]


def test_an_error_in_the_middle_of_a_native_stream_ends_it(
    gateway: Gateway, upstream: Upstream
) -> None:
    start = {"type": "message_start", "message": {**NATIVE, "content": [], "stop_reason": None}}
    block = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    delta = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Hel"},
    }
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    async def breaking(asked: Asked, peer: Peer) -> None:
        peer.begin()
        for each in (start, block, delta, failure):
            peer.piece(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode())
        peer.end()

    upstream.script = breaking
    answered = post(gateway, "/v1/messages", asking(model="claude/claude-sonnet-4-5", stream=True))
    *before, (kind, last) = events(answered.body)
    assert [event for _, event in before] == [start, block, delta]
    assert kind == "error"
    assert last["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert last["request_id"] == answered.headers["request-id"]


def test_tokens_are_counted_by_the_upstream(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, {"input_tokens": 17})
    answered = post(
        gateway,
        "/v1/messages/count_tokens",
        {"model": "claude/claude-sonnet-4-5", "messages": HELLO, "tools": [SEARCH]},
        anthropic_beta="token-counting-2024-11-01",
    )
    assert answered.json() == {"input_tokens": 17}
    assert "x-gateway-estimated" not in answered.headers
    (asked,) = upstream.asked
    assert asked.path == "/v1/messages/count_tokens"
    assert asked.headers["anthropic-beta"] == "token-counting-2024-11-01"
    assert asked.json()["model"] == "claude-sonnet-4-5"
