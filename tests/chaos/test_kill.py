"""A worker that is killed: what its upstream saw is in the ledger, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.chaos.asking import asking
from tests.gateway import Gateway, Told, running_gateway, wait_until
from tests.upstream import DONE, Asked, Peer, Upstream, chunk, scripted_upstream

REQUESTS = 200


async def unhurried(asked: Asked, peer: Peer) -> None:
    """Streams for some 0.5 s; answers after 0.2 s."""
    if not asked.json()["stream"]:
        await asyncio.sleep(0.2)
        peer.answer(
            200,
            b'{"choices":[{"index":0,"message":{"role":"assistant","content":"x"},'
            b'"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1}}',
        )
        return
    peer.begin()
    for _ in range(10):
        peer.piece(chunk(content="hello "))
        await asyncio.sleep(0.05)
    peer.piece(chunk("stop") + DONE)
    peer.end()


async def send_until_dead(gateway: Gateway, upstream: Upstream) -> None:
    """200 requests, 40 at a time; the server is killed when its upstream has seen half of them."""
    at_once = asyncio.Semaphore(40)

    async def one(number: int) -> None:
        async with at_once:
            with suppress(OSError):
                async with asking(gateway, f"kill-{number}", stream=number % 3 != 0) as caller:
                    await caller.read_all()

    async def kill() -> None:
        half = REQUESTS // 2
        await asyncio.to_thread(wait_until, lambda: len(upstream.asked) >= half, seconds=20)
        gateway.kill()

    async with asyncio.timeout(30):
        await asyncio.gather(kill(), *(one(number) for number in range(REQUESTS)))


async def test_every_request_the_upstream_saw_is_recorded_once_after_a_kill(
    tmp_path: Path, spare_database_url: str
) -> None:
    with (
        scripted_upstream(unhurried) as upstream,
        running_gateway(tmp_path, spare_database_url, upstream.base_url) as gateway,
    ):
        await send_until_dead(gateway, upstream)
        seen = {asked.json()["user"] for asked in upstream.asked}
        gateway.start()
        wait_until(
            lambda: seen <= {row.request_id for row in gateway.rows()},
            seconds=25,
            why=lambda: f"missing: {seen - {row.request_id for row in gateway.rows()}}",
        )
        counted = Counter(row.request_id for row in gateway.rows())
        assert set(counted.values()) == {1}
        states = {row.status for row in gateway.rows()}
        assert "interrupted" in states
        assert states <= {"interrupted", "success"}
        assert all(row.tokens_input > 0 for row in gateway.rows() if row.request_id in seen)
        rows = gateway.rows()
        wait_until(lambda: len(completed(gateway)) == len(rows), seconds=10)
        started = [each for each in gateway.events() if each.type == "generation_started"]
        assert {each.request_id for each in started} == {row.request_id for row in rows}
        assert len(started) == len(rows)
        for name in ("tokens_input", "tokens_output"):
            told = sum(each.fields[name] for each in completed(gateway))
            assert told == sum(getattr(row, name) for row in rows)


def completed(gateway: Gateway) -> list[Told]:
    return [each for each in gateway.events() if each.type == "generation_completed"]
