"""Conversations near the end of a window, at providers that can count tokens and at others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.sessions_app.conftest import OPENAI, Ask, echo, said
from tests.upstream import Asked, Peer, Script, Upstream

WINDOW = 600
SMALL, UNCOUNTED = "claude/small", "scripted/tiny"
"""Both of WINDOW tokens."""


def counting(bytes_per_token: float, *, status: int = 200) -> Script:
    """An upstream of Anthropic's that counts so, and answers as `echo` does."""

    async def script(asked: Asked, peer: Peer) -> None:
        if not asked.path.endswith("/count_tokens"):
            await echo(asked, peer)
            return
        text = json.dumps([asked.json().get("system"), asked.json()["messages"]])
        counted = {"input_tokens": int(len(text) / bytes_per_token)}
        peer.answer(status, json.dumps(counted).encode())

    return script


def counts(upstream: Upstream) -> list[Any]:
    return [asked.json() for asked in upstream.asked if asked.path.endswith("/count_tokens")]


def told(upstream: Upstream) -> list[Any]:
    """What the model was told last, without its system prompt."""
    chats = [each for each in upstream.asked if not each.path.endswith("/count_tokens")]
    found: list[Any] = chats[-1].json()["messages"]
    return found


def begin(ask: Ask, upstream: Upstream, model: str, *, turns: int, **fields: Any) -> str:
    """A session with turns of some 90 bytes."""
    upstream.script = echo
    session = str(ask("POST", "", {"model": OPENAI, **fields}).json()["id"])
    for number in range(turns):
        assert ask("POST", f"/{session}/chat", said(f"{number} " + "word " * 14)).status == 200
    assert ask("PATCH", f"/{session}", {"model": model, "max_tokens": 50}).status == 200
    upstream.asked = []
    return session


def test_what_fits_for_sure_is_not_counted(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, upstream, SMALL, turns=1)
    upstream.script = counting(4)
    assert ask("POST", f"/{session}/chat", said("Hi")).status == 200
    assert counts(upstream) == []


def test_what_the_provider_counts_decides_and_not_the_estimate(
    ask: Ask, upstream: Upstream
) -> None:
    session = begin(ask, upstream, SMALL, turns=10)
    upstream.script = counting(2)
    refused = ask("POST", f"/{session}/chat", said("Hi"))
    assert refused.json()["error"]["code"] == "context_length_exceeded", refused.body
    upstream.script = counting(6)
    assert ask("POST", f"/{session}/chat", said("Hi")).status == 200
    assert len(told(upstream)) == 21
    assert len(counts(upstream)) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_the_oldest_turns_are_left_out_by_what_is_counted(
    ask: Ask, upstream: Upstream, stream: bool
) -> None:
    session = begin(ask, upstream, SMALL, turns=16, truncation="drop_oldest")
    upstream.script = counting(1.5)
    answered = ask("POST", f"/{session}/chat", {**said("Hi"), "stream": stream})
    assert answered.status == 200, answered.body
    assert len(json.dumps(told(upstream))) / 1.5 <= WINDOW - 50
    left_out = int(answered.headers["x-gateway-truncated"])
    assert left_out + len(told(upstream)) - 1 == 32
    assert len(told(upstream)) > 1
    assert len(counts(upstream)) <= 4


def test_a_count_that_fails_leaves_the_estimate(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, upstream, SMALL, turns=10)
    upstream.script = counting(1, status=529)
    assert ask("POST", f"/{session}/chat", said("Hi")).status == 200
    assert len(counts(upstream)) == 1


def test_who_cannot_count_is_not_asked(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, upstream, UNCOUNTED, turns=10)
    assert ask("POST", f"/{session}/chat", said("Hi")).status == 200
    assert [each.path for each in upstream.asked] == ["/v1/chat/completions"]


@pytest.mark.parametrize(("model", "stream"), [(SMALL, False), (SMALL, True), (UNCOUNTED, False)])
def test_what_a_summary_stands_for_is_counted_in_a_header(
    ask: Ask, upstream: Upstream, model: str, stream: bool
) -> None:
    turns = 16 if model == SMALL else 36
    session = begin(ask, upstream, model, turns=turns, truncation="summarise")
    upstream.script = counting(2)
    answered = ask("POST", f"/{session}/chat", {**said("Hi"), "stream": stream})
    assert answered.status == 200, answered.body
    messages = ask("GET", f"/{session}?limit=1000").json()["messages"]
    compacted = [each for each in messages if each.get("compacted")]
    gone = 2 * turns - sum(not each.get("summary") for each in messages) + 2
    assert compacted == []
    assert int(answered.headers["x-gateway-truncated"]) == gone > 0


def test_counting_is_no_work_of_the_gateway(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, upstream, SMALL, turns=10)
    count = counting(6)

    async def slow(asked: Asked, peer: Peer) -> None:
        await asyncio.sleep(1.5)
        await count(asked, peer)

    upstream.script = slow
    answered = ask("POST", f"/{session}/chat", said("Hi"))
    assert answered.status == 200
    assert float(answered.headers["x-gateway-overhead-ms"]) < 1000
