"""Many streams through one worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.asking import asking, dechunked
from tests.gateway import Gateway, running_gateway, wait_until
from tests.upstream import DONE, Asked, Peer, chunk, scripted_upstream, usage_chunk

pytestmark = pytest.mark.once

WAVES, STREAMS, CHUNKS = 4, 500, 100
MAX_GROWTH_KIB = 120 * 1024


def pieces_for(name: str) -> list[bytes]:
    """What the upstream streams to this caller: nobody else is sent the same bytes."""
    words = [chunk(content=f"{name}:{number} ✓ ") for number in range(CHUNKS - 1)]
    return [*words, chunk("stop")]


async def script(asked: Asked, peer: Peer) -> None:
    peer.begin()
    for piece in pieces_for(asked.json()["user"]):
        peer.piece(piece)
        await asyncio.sleep(0.02)
    peer.piece(usage_chunk(9, CHUNKS))
    peer.piece(DONE)
    peer.end()


async def read_stream(gateway: Gateway, name: str) -> None:
    async with asking(gateway, name, stream=True) as caller:
        body = dechunked(await caller.read_all())
    assert body == b"".join(pieces_for(name)) + DONE


def await_rows(gateway: Gateway, number: int) -> None:
    wait_until(lambda: len(gateway.rows()) == number, seconds=20)


async def test_500_streams_at_once_are_byte_exact_and_leave_nothing_behind(
    tmp_path: Path, spare_database_url: str
) -> None:
    """M2: the first two waves warm the worker up; what it holds after the last is what it held
    after the second."""
    with (
        scripted_upstream(script) as upstream,
        running_gateway(tmp_path, spare_database_url, upstream.base_url) as gateway,
    ):
        await read_stream(gateway, "first")
        before = gateway.resident_kib()
        held = []
        for wave in range(WAVES):
            names = [f"s-{wave}-{number}" for number in range(STREAMS)]
            async with asyncio.timeout(90):
                await asyncio.gather(*(read_stream(gateway, name) for name in names))
            await_rows(gateway, STREAMS * (wave + 1) + 1)
            held.append(gateway.resident_kib())
        assert {(row.status, row.tokens_output) for row in gateway.rows()} == {("success", CHUNKS)}
        assert gateway.open_entries() == set()
        assert held[0] - before < MAX_GROWTH_KIB
        assert held[-1] < held[1] * 1.05, held
