"""Recorded conversations with api.openai.com, held again through the gateway."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.gateway import Answered, Gateway, wait_until
from tests.recordings import every, needs, recorded
from tests.upstream import Asked, Peer, Script, Upstream

INTERACTIONS = recorded("openai-chat", endpoint="/v1/chat/completions")
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]
every_interaction = every(INTERACTIONS)


def playing(response: dict[str, Any]) -> Script:
    """A script that answers as the recorded upstream did; a stream in pieces of 999 bytes, so that
    events are cut wherever that falls."""
    content_type = response["headers"].get("content-type", "application/json")

    async def script(asked: Asked, peer: Peer) -> None:
        if response["body_text"] is None:
            body = json.dumps(response["body"]).encode()
            peer.answer(response["status"], body, content_type=content_type)
            return
        raw = response["body_text"].encode()
        peer.begin(content_type=content_type)
        for start in range(0, len(raw), 999):
            peer.piece(raw[start : start + 999])
        peer.end()

    return script


def refused_by_us(sent: dict[str, Any]) -> str | None:
    """Why the gateway answers this request itself, as the recorded upstream did too."""
    if not sent["messages"]:
        return "no messages"
    if any(each["role"] == "user" and each.get("content") is None for each in sent["messages"]):
        return "user message without content"
    return None


def through(gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]) -> Answered:
    upstream.script = playing(interaction["response"])
    sent = interaction["request"]["json"]
    request = {**sent, "model": f"scripted/{sent['model']}"}
    return gateway.chat(request, x_request_id=interaction["id"])


def events(raw: str) -> list[str]:
    """The data of every event."""
    blocks = raw.replace("\r\n", "\n").split("\n\n")
    return [block.removeprefix("data:").strip() for block in blocks if block.startswith("data:")]


def shown(chunks: list[Any], sent: dict[str, Any]) -> list[Any]:
    """What of the recorded chunks a caller is to see: usage only where it was asked for."""
    if (sent.get("stream_options") or {}).get("include_usage"):
        return chunks
    return [chunk for chunk in chunks if chunk["choices"] or chunk.get("usage") is None]


@every_interaction
def test_the_upstream_gets_the_request_as_it_came_but_for_model_and_stream_options(
    gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    sent = interaction["request"]["json"]
    through(gateway, upstream, interaction)
    if refused_by_us(sent):
        assert upstream.asked == []
        return
    (asked,) = upstream.asked
    got = asked.json()
    options = got.pop("stream_options", None)
    assert got == {name: value for name, value in sent.items() if name != "stream_options"}
    if sent.get("stream"):
        assert options == {**(sent.get("stream_options") or {}), "include_usage": True}
    else:
        assert options == sent.get("stream_options")
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer sk-upstream-0123456789"


@every_interaction
def test_the_caller_gets_the_answer_as_it_was_recorded(
    gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    response, sent = interaction["response"], interaction["request"]["json"]
    answered = through(gateway, upstream, interaction)
    assert answered.headers["x-request-id"] == interaction["id"]
    if response["status"] != 200:
        compare_errors(answered, response, sent)
    elif response["body_text"] is None:
        assert answered.status == 200
        assert answered.json() == response["body"]
    else:
        compare_streams(answered, response["body_text"], sent)


def compare_errors(answered: Answered, response: dict[str, Any], sent: dict[str, Any]) -> None:
    told, recorded = answered.json()["error"], response["body"]["error"]
    if response["status"] in (401, 403):
        assert (answered.status, told["code"]) == (502, "upstream_credentials")
    elif refused_by_us(sent):
        assert answered.status == 400
        assert told["param"].startswith("messages")
    else:
        assert answered.status == response["status"]
        for name in ("message", "type", "param", "code"):
            assert told[name] == recorded[name], name


def compare_streams(answered: Answered, recorded_text: str, sent: dict[str, Any]) -> None:
    assert answered.status == 200
    assert answered.headers["content-type"].startswith("text/event-stream")
    got, was = events(answered.body.decode()), events(recorded_text)
    assert got[-1] == "[DONE]"
    recorded_chunks = [json.loads(data) for data in was if data != "[DONE]"]
    assert [json.loads(data) for data in got[:-1]] == shown(recorded_chunks, sent)


def test_the_ledger_has_the_recorded_usage_of_every_interaction(
    gateway: Gateway, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, tuple[str, int, int, bool]] = {}
    left_out: Counter[str] = Counter()
    for interaction in INTERACTIONS:
        response, sent = interaction["response"], interaction["request"]["json"]
        through(gateway, upstream, {**interaction, "id": f"ledger-{interaction['id']}"})
        if reason := refused_by_us(sent):
            left_out[f"refused by the gateway: {reason}"] += 1
            continue
        usage = recorded_usage(response)
        if usage is None and response["status"] == 200:
            left_out["recorded without usage"] += 1
            continue
        told[f"ledger-{interaction['id']}"] = expected_row(response["status"], usage or {})
    wait_until(lambda: told.keys() <= {row.request_id for row in gateway.rows()}, seconds=20)
    found = {
        row.request_id: (row.status, row.tokens_input, row.tokens_output, bool(row.estimated))
        for row in gateway.rows()
        if row.request_id in told
    }
    with capsys.disabled():
        print(
            f"\n{len(INTERACTIONS)} recorded interactions replayed, {len(told)} compared with the "
            f"ledger, left out: {dict(left_out) or 'none'}"
        )
    assert found == told


def expected_row(status: int, usage: dict[str, Any]) -> tuple[str, int, int, bool]:
    if status != 200:
        return ("error", 0, 0, False)
    return ("success", usage["prompt_tokens"], usage["completion_tokens"], False)


def recorded_usage(response: dict[str, Any]) -> dict[str, Any] | None:
    if response["body_text"] is None:
        usage: dict[str, Any] | None = response["body"].get("usage")
        return usage
    found = None
    for data in events(response["body_text"]):
        if data != "[DONE]":
            found = json.loads(data).get("usage") or found
    return found
