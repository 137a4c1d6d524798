"""Recorded conversations with api.anthropic.com, held again through the adapter on its own wire,
and through the gateway by a caller on OpenAI's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from chat.errors import UpstreamCredentials, UpstreamRejected
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from chat.types import Batch, Reply, Usage
from providers.adapters.anthropic import AnthropicAdapter
from providers.adapters.base import Endpoint
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from tests.conftest import spare_database
from tests.gateway import Answered, Gateway, running_gateway, wait_until
from tests.recordings import every, needs, recorded
from tests.upstream import Asked, Peer, Script, Upstream, scripted_upstream, silence

INTERACTIONS = recorded("anthropic", endpoint="/v1/messages")
COUNTS = recorded("anthropic", endpoint="/v1/messages/count_tokens")
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]
every_interaction = every(INTERACTIONS)


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture
async def adapter(provider: Upstream) -> AsyncIterator[AnthropicAdapter]:
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    endpoint = Endpoint(base_url=provider.base_url, api_key="sk-ant-upstream", model="served")
    yield AnthropicAdapter(endpoint, client)
    await client.aclose()


@pytest.fixture(scope="module")
def claude(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose provider `scripted` is of the kind `anthropic`."""
    folder = tmp_path_factory.mktemp("claude")
    with (
        spare_database(folder) as url,
        running_gateway(folder, url, provider.base_url, kind="anthropic") as gateway,
    ):
        yield gateway


def playing(response: dict[str, Any], *, cut: int = 999) -> Script:
    """A script that answers as the recorded upstream did; a stream in pieces of `cut` bytes."""
    content_type = response["headers"].get("content-type", "application/json")

    async def script(asked: Asked, peer: Peer) -> None:
        if response["body_text"] is None:
            body = json.dumps(response["body"]).encode()
            peer.answer(response["status"], body, content_type=content_type)
            return
        raw = response["body_text"].encode()
        peer.begin(content_type=content_type)
        for start in range(0, len(raw), cut):
            peer.piece(raw[start : start + cut])
        peer.end()

    return script


def recorded_events(raw: str) -> list[tuple[str, Any]]:
    """Name and data of every event."""
    blocks = [each.split("\n") for each in raw.split("\n\n") if each.strip()]
    return [(name[7:], json.loads(data[5:])) for name, data in blocks]


def recorded_message(response: dict[str, Any]) -> Any:
    """The message an answer tells, with the counts at its end."""
    if response["body_text"] is None:
        return response["body"]
    message: Any = None
    partial: dict[int, str] = {}
    for kind, data in recorded_events(response["body_text"]):
        if kind == "message_start":
            message = data["message"]
        elif kind == "content_block_start":
            message["content"].append(data["content_block"])
        elif kind == "content_block_delta":
            add_delta(message["content"][data["index"]], data["delta"], partial, data["index"])
        elif kind == "content_block_stop" and partial.get(data["index"]):
            message["content"][data["index"]]["input"] = json.loads(partial[data["index"]])
        elif kind == "message_delta":
            message.update(data["delta"])
            message["usage"].update(data["usage"])
    return message


def add_delta(block: Any, delta: Any, partial: dict[int, str], index: int) -> None:
    if delta["type"] == "input_json_delta":
        partial[index] = partial.get(index, "") + delta["partial_json"]
    for name in ("text", "thinking", "signature"):
        if delta["type"] == f"{name}_delta":
            block[name] = (block.get(name) or "") + delta[name]


def expected_usage(message: Any) -> dict[str, int]:
    told = message["usage"]
    read = told.get("cache_read_input_tokens") or 0
    written = told.get("cache_creation_input_tokens") or 0
    return {
        "prompt": told["input_tokens"] + read + written,
        "output": told["output_tokens"],
        "cached": read,
        "written": written,
        "reasoning": (told.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
    }


def counts_of(usage: Usage | None) -> dict[str, int]:
    assert usage is not None
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    assert inputs is not None
    return {
        "prompt": usage.prompt_tokens,
        "output": usage.completion_tokens or 0,
        "cached": inputs.cached_tokens or 0,
        "written": inputs.cache_write_tokens or 0,
        "reasoning": (outputs.reasoning_tokens if outputs else None) or 0,
    }


FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}

# --- on Anthropic's own wire --------------------------------------------------------------------


def native(interaction: dict[str, Any]) -> ChatRequest:
    sent = interaction["request"]["json"]
    body = {"messages": [{"role": "user", "content": "-"}], "stream": sent.get("stream")}
    request = parse_chat_request(json.dumps(body).encode())
    request.wire, request.native = "anthropic", sent
    request.native_headers = interaction["request"]["headers"]
    return request


@every_interaction
async def test_on_its_own_wire_everything_is_as_it_was_recorded(
    provider: Upstream, adapter: AnthropicAdapter, interaction: dict[str, Any]
) -> None:
    response, sent = interaction["response"], interaction["request"]["json"]
    provider.script, provider.asked = playing(response), []
    request = native(interaction)
    if response["status"] != 200:
        await compare_errors(adapter, request, response)
    elif response["body_text"] is None:
        compare_wholes(await adapter.complete(request), response)
    else:
        compare_streams([batch async for batch in adapter.stream(request)], response)
    (asked,) = provider.asked
    assert asked.json() == {**sent, "model": "served"}
    for name in ("anthropic-version", "anthropic-beta"):
        if name in interaction["request"]["headers"]:
            assert asked.headers[name] == interaction["request"]["headers"][name]


async def compare_errors(
    adapter: AnthropicAdapter, request: ChatRequest, response: dict[str, Any]
) -> None:
    if response["status"] == 401:
        with pytest.raises(UpstreamCredentials):
            await adapter.complete(request)
        return
    with pytest.raises(UpstreamRejected) as caught:
        await adapter.complete(request)
    assert caught.value.http_status == response["status"]
    assert caught.value.message == response["body"]["error"]["message"]
    assert caught.value.error_type == response["body"]["error"]["type"]


def compare_wholes(reply: Reply, response: dict[str, Any]) -> None:
    assert reply.wire == "anthropic"
    assert reply.body == json.dumps(response["body"]).encode()
    assert reply.finish_reason == FINISH[response["body"]["stop_reason"]]
    assert counts_of(reply.usage) == expected_usage(response["body"])


def compare_streams(batches: list[Batch], response: dict[str, Any]) -> None:
    wire = b"".join(batch.wire or b"" for batch in batches).decode()
    assert recorded_events(wire) == recorded_events(response["body_text"])
    message = recorded_message(response)
    chunks = [chunk for batch in batches for chunk in batch.chunks]
    assert counts_of(chunks[-1].usage) == expected_usage(message)
    (finish,) = {
        choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason
    }
    assert finish == FINISH[message["stop_reason"]]


@pytest.mark.parametrize("interaction", COUNTS, ids=[each["id"] for each in COUNTS])
async def test_tokens_are_counted_as_they_were(
    provider: Upstream, adapter: AnthropicAdapter, interaction: dict[str, Any]
) -> None:
    response, sent = interaction["response"], interaction["request"]["json"]
    provider.script, provider.asked = playing(response), []
    count = adapter.count_tokens(sent, interaction["request"]["headers"])
    if response["status"] == 200:
        assert json.loads((await count).body) == response["body"]
    else:
        with pytest.raises(UpstreamRejected, match=response["body"]["error"]["message"]):
            await count
    assert provider.asked[0].json() == {**sent, "model": "served"}


# --- translated ---------------------------------------------------------------------------------


def through(claude: Gateway, provider: Upstream, interaction: dict[str, Any]) -> Answered:
    """The recorded answer to a caller on OpenAI's wire; what was asked matters little to it."""
    provider.script, provider.asked = playing(interaction["response"], cut=777), []
    request: dict[str, Any] = {
        "model": f"scripted/{interaction['request']['json']['model']}",
        "messages": [{"role": "user", "content": "Hello"}],
    }
    if interaction["response"]["body_text"] is not None:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return claude.chat(request, x_request_id=interaction["id"])


@every_interaction
def test_translated_nothing_the_caller_can_be_told_is_lost(
    claude: Gateway, provider: Upstream, interaction: dict[str, Any]
) -> None:
    response = interaction["response"]
    answered = through(claude, provider, interaction)
    if response["status"] == 401:
        assert (answered.status, answered.json()["error"]["code"]) == (502, "upstream_credentials")
        return
    assert answered.status == response["status"]
    if response["status"] != 200:
        told = answered.json()["error"]
        assert told["message"] == response["body"]["error"]["message"]
        assert told["type"] == response["body"]["error"]["type"]
        return
    message = recorded_message(response)
    got = folded(answered.body.decode()) if response["body_text"] else answered.json()
    compare_completion(got, message)


def compare_completion(got: Any, message: Any) -> None:
    assert (got["id"], got["model"]) == (message["id"], message["model"])
    (choice,) = got["choices"]
    said = choice["message"]
    blocks = message["content"]
    assert (said.get("content") or "") == "".join(each["text"] for each in of(blocks, "text"))
    assert [
        (each["id"], each["function"]["name"], json.loads(each["function"]["arguments"]))
        for each in said.get("tool_calls") or ()
    ] == [(each["id"], each["name"], each["input"]) for each in of(blocks, "tool_use")]
    thoughts = of(blocks, "thinking", "redacted_thinking")
    assert (said.get("thinking_blocks") or []) == thoughts
    assert (said.get("reasoning_content") or "") == "".join(
        each.get("thinking", "") for each in thoughts
    )
    assert choice["finish_reason"] == FINISH[message["stop_reason"]]
    usage = got["usage"]
    assert {
        "prompt": usage["prompt_tokens"],
        "output": usage["completion_tokens"],
        "cached": usage["prompt_tokens_details"]["cached_tokens"],
        "written": usage["prompt_tokens_details"]["cache_write_tokens"],
        "reasoning": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0),
    } == expected_usage(message)


def of(blocks: list[Any], *kinds: str) -> list[Any]:
    return [each for each in blocks if each["type"] in kinds]


def folded(raw: str) -> Any:
    """A stream added up as a careful client does, who takes no liberties with its rules (M28)."""
    blocks = [each.removeprefix("data: ") for each in raw.removesuffix("\n\n").split("\n\n")]
    assert blocks.pop() == "[DONE]"
    chunks = [json.loads(each) for each in blocks]
    assert len({(each["id"], each["model"], each["created"]) for each in chunks}) == 1
    assert all(each["object"] == "chat.completion.chunk" for each in chunks)
    *spoken, last = chunks
    assert last["choices"] == []
    said: dict[str, Any] = {"thinking_blocks": [], "tool_calls": []}
    finish = None
    for position, chunk in enumerate(spoken):
        (choice,) = chunk["choices"]
        assert finish is None, "nothing follows the end"
        assert (choice["delta"].pop("role", None) == "assistant") == (position == 0)
        finish = choice["finish_reason"]
        add_to(said, choice["delta"])
    choices = [{"index": 0, "message": said, "finish_reason": finish}]
    return {**last, "choices": choices}


def add_to(said: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("content", "reasoning_content"):
        if name in delta:
            said[name] = said.get(name, "") + delta[name]
    said["thinking_blocks"] += delta.get("thinking_blocks", [])
    for call in delta.get("tool_calls", ()):
        if "id" in call:
            assert call["index"] == len(said["tool_calls"])
            said["tool_calls"].append(call)
        else:
            assert call["function"].keys() == {"arguments"}
            known = said["tool_calls"][call["index"]]["function"]
            known["arguments"] += call["function"]["arguments"]


def test_the_ledger_has_the_recorded_usage_of_every_interaction(
    claude: Gateway, provider: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, tuple[str, int, int, bool]] = {}
    compared: Counter[str] = Counter()
    for interaction in INTERACTIONS:
        response = interaction["response"]
        through(claude, provider, {**interaction, "id": f"ledger-{interaction['id']}"})
        row = ("error", 0, 0, False)
        if response["status"] == 200:
            counts = expected_usage(recorded_message(response))
            row = ("success", counts["prompt"], counts["output"], False)
        told[f"ledger-{interaction['id']}"] = row
        form = "stream" if response["body_text"] else "whole"
        compared[form if response["status"] == 200 else "error"] += 1
    wait_until(lambda: told.keys() <= {row.request_id for row in claude.rows()}, seconds=20)
    found = {
        row.request_id: (row.status, row.tokens_input, row.tokens_output, bool(row.estimated))
        for row in claude.rows()
        if row.request_id in told
    }
    with capsys.disabled():
        print(
            f"\n{len(INTERACTIONS)} recorded messages replayed natively and translated, "
            f"{compared.total()} compared ({dict(compared)}), left out: none; not part of the "
            f"translation: {dict(untold())}"
        )
    assert found == told


def untold() -> Counter[str]:
    """Blocks of server tools: they ran upstream, and OpenAI's shape has no place for them."""
    return Counter(
        block["type"]
        for interaction in INTERACTIONS
        if interaction["response"]["status"] == 200
        for block in recorded_message(interaction["response"])["content"]
        if block["type"] not in ("text", "tool_use", "thinking", "redacted_thinking")
    )
