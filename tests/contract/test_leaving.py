"""Whoever stops waiting frees the upstream within a second, wherever the answer is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from providers.http import HttpClient
from tests.contract.dialects import Answer
from tests.contract.stage import FakeStage, HttpStage, ask
from tests.gateway import wait_until
from tests.upstream import Asked, Peer, Upstream

pytestmark = pytest.mark.once


async def nothing(stage: HttpStage, peer: Peer) -> None:
    """Before the head of the answer."""


async def head_only(stage: HttpStage, peer: Peer) -> None:
    """Between the head and the first word."""
    peer.begin(content_type=stage.dialect.content_type)


async def words(stage: HttpStage, peer: Peer) -> None:
    """Between two words."""
    peer.begin(content_type=stage.dialect.content_type)
    for event in stage.dialect.said(Answer(words=("Hel", "lo"))):
        peer.piece(event)


async def half(stage: HttpStage, peer: Peer) -> None:
    """In the middle of a word."""
    peer.begin(content_type=stage.dialect.content_type)
    raw = b"".join(stage.dialect.said(Answer(words=("Hel", "lo"))))
    peer.piece(raw[:-9])


PHASES = [nothing, head_only, words, half]


def begun(
    stage: HttpStage, server: Upstream, phase: Callable[[HttpStage, Peer], Awaitable[None]]
) -> asyncio.Event:
    """Has the upstream play so far and then fall silent; set when it has."""
    there, loop = asyncio.Event(), asyncio.get_running_loop()

    async def play(asked: Asked, peer: Peer) -> None:
        await phase(stage, peer)
        await asyncio.sleep(0.02)
        loop.call_soon_threadsafe(there.set)
        await asyncio.Event().wait()

    server.script = play
    return there


async def gone(server: Upstream) -> None:
    def has_left() -> bool:
        return bool(server.left)

    await asyncio.to_thread(wait_until, has_left, seconds=1)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
async def test_a_cancelled_request_closes_the_upstream(
    http_stage: HttpStage, client: HttpClient, server: Upstream, phase: Any
) -> None:
    adapter = http_stage.adapter(client, f"http://127.0.0.1:{server.port}")
    for streams in (True, False):
        server.asked = []
        there = begun(http_stage, server, phase)
        task = asyncio.create_task(ask(adapter, http_stage.request(stream=streams)))
        await there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone(server)


async def test_a_stream_that_is_closed_closes_the_upstream(
    http_stage: HttpStage, client: HttpClient, server: Upstream
) -> None:
    adapter = http_stage.adapter(client, f"http://127.0.0.1:{server.port}")
    begun(http_stage, server, words)
    batches = adapter.stream(http_stage.request(stream=True))
    await anext(batches)
    await batches.aclose()
    await gone(server)


async def test_an_answer_read_to_its_end_leaves_the_connection_for_the_next(
    http_stage: HttpStage, client: HttpClient, server: Upstream
) -> None:
    ports = set()

    async def play(asked: Asked, peer: Peer) -> None:
        ports.add(peer._transport.get_extra_info("peername"))
        peer.begin(content_type=http_stage.dialect.content_type)
        for event in http_stage.dialect.stream(Answer(words=("Hello",))):
            peer.piece(event)
        peer.end()

    server.script = play
    adapter = http_stage.adapter(client, f"http://127.0.0.1:{server.port}")
    for _ in range(3):
        assert await ask(adapter, http_stage.request(stream=True)) is None
    assert len(ports) == 1


async def test_a_fake_model_that_hangs_can_be_left() -> None:
    stage = FakeStage()
    adapter = stage._scripted(reply="Hello there", hang_after_chunks=2)
    task = asyncio.create_task(ask(adapter, stage.request(stream=True)))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(1):
            await task
