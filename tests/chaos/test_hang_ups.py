"""Callers who leave: the upstream is let go at once, and the ledger knows."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable

from tests.chaos.asking import Caller, asking
from tests.gateway import Gateway, Row, wait_until
from tests.upstream import DONE, Asked, Peer, Upstream, chunk, completion, silence, whole

ABORT_WITHIN_S = 1.0


async def talking(asked: Asked, peer: Peer) -> None:
    """A stream that does not come to an end."""
    peer.begin()
    for _ in range(10_000):
        peer.piece(chunk(content="hello "))
        await asyncio.sleep(0.02)


async def until(holds: Callable[[], bool], *, seconds: float = 10) -> None:
    await asyncio.to_thread(wait_until, holds, seconds=seconds)


def asked_by(provider: Upstream, request_id: str) -> Asked | None:
    return next((each for each in provider.asked if each.json().get("user") == request_id), None)


async def leave_and_time(
    gateway: Gateway,
    provider: Upstream,
    *,
    stream: bool,
    wait: Callable[[Caller], Awaitable[None]] | None = None,
) -> str:
    """Asks, waits until the upstream is asked (and for `wait`), leaves, and checks that the
    upstream is let go in time. Returns the request id."""
    request_id = uuid.uuid4().hex
    async with asking(gateway, request_id, stream=stream) as caller:
        await until(lambda: asked_by(provider, request_id) is not None)
        if wait is not None:
            await wait(caller)
    asked = asked_by(provider, request_id)
    assert asked is not None
    await until(lambda: asked.left_at is not None, seconds=ABORT_WITHIN_S)
    return request_id


async def row_of(gateway: Gateway, request_id: str) -> Row:
    def find() -> list[Row]:
        return [row for row in gateway.rows() if row.request_id == request_id]

    await until(lambda: bool(find()))
    (row,) = find()
    return row


async def test_a_stream_left_before_its_first_byte_is_aborted(
    served: Gateway, provider: Upstream
) -> None:
    provider.script = silence
    row = await row_of(served, await leave_and_time(served, provider, stream=True))
    assert (row.status, bool(row.estimated), row.tokens_output) == ("aborted", True, 0)
    assert row.tokens_input > 0


async def test_a_stream_left_in_the_middle_is_aborted_and_billed_by_what_was_sent(
    served: Gateway, provider: Upstream
) -> None:
    async def some(caller: Caller) -> None:
        for _ in range(5):
            await caller.read_until(b"hello ")

    provider.script = talking
    row = await row_of(served, await leave_and_time(served, provider, stream=True, wait=some))
    assert (row.status, bool(row.estimated)) == ("aborted", True)
    assert row.tokens_input > 0
    assert row.tokens_output > 0


async def test_a_call_left_before_its_answer_is_aborted(
    served: Gateway, provider: Upstream
) -> None:
    provider.script = silence
    row = await row_of(served, await leave_and_time(served, provider, stream=False))
    assert (row.status, bool(row.estimated)) == ("aborted", True)
    assert row.tokens_input > 0


async def test_300_random_hang_ups_leave_nothing_open(served: Gateway, provider: Upstream) -> None:
    chance = random.Random(7)
    provider.script = at_some_time
    before = {row.request_id for row in served.rows()}
    provider.asked = []
    at_once = asyncio.Semaphore(30)

    async def one() -> None:
        async with at_once:
            request_id = f"{chance.random():.9f}-{uuid.uuid4().hex}"
            async with asking(served, request_id, stream=chance.random() < 0.7):
                await asyncio.sleep(chance.random() * 0.25)

    await asyncio.gather(*(one() for _ in range(300)))
    await asyncio.to_thread(wait_for_silence, served, provider)
    asked = {each.json()["user"] for each in provider.asked}
    rows = [row for row in served.rows() if row.request_id not in before]
    assert asked <= {row.request_id for row in rows}
    assert len(rows) == len({row.request_id for row in rows})
    assert {row.status for row in rows} <= {"aborted", "success"}
    assert any(row.status == "aborted" for row in rows)
    provider.script = whole(200, completion())
    assert (
        served.chat({"model": "smart", "messages": [{"role": "user", "content": "x"}]}).status
        == 200
    )


async def at_some_time(asked: Asked, peer: Peer) -> None:
    """A stream of some 0.15 s or an answer after as long, each caller's own."""
    wait = float(asked.json()["user"].partition("-")[0]) * 0.03
    if not asked.json()["stream"]:
        await asyncio.sleep(wait * 5)
        peer.answer(
            200,
            b'{"choices":[{"index":0,"message":{"role":"assistant","content":"x"},'
            b'"finish_reason":"stop"}]}',
        )
        return
    peer.begin()
    for _ in range(10):
        await asyncio.sleep(wait)
        peer.piece(chunk(content="hello "))
    peer.piece(chunk("stop") + DONE)
    peer.end()


def wait_for_silence(gateway: Gateway, provider: Upstream) -> None:
    """Until the journal has no open request and the ledger all that the upstream was asked."""

    def is_silent() -> bool:
        asked = {each.json()["user"] for each in provider.asked}
        rows = gateway.rows()
        return (
            not gateway.open_entries()
            and len(gateway.closed_entries()) <= len(rows)
            and asked <= {row.request_id for row in rows}
        )

    wait_until(is_silent, seconds=15, why=lambda: f"open: {gateway.open_entries()}")
