"""The keys in memory: asked for once, never outdated, and steady while the database is away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from django.db import OperationalError
from django.test import override_settings

from chat.errors import ServiceUnavailable
from keys import ring as ring_module
from keys.caller import Caller
from keys.ring import KeyRing

pytestmark = pytest.mark.once
ALICE, BOB = Caller(name="alice"), Caller(name="bob")


class Database:
    """What the ring reads keys from. While `held`, a look-up has read and waits to return."""

    def __init__(self) -> None:
        self.rows: dict[str, Caller] = {"a": ALICE, "b": BOB}
        self.asked: list[str] = []
        self.away = False
        self.free = threading.Event()
        self.free.set()
        self.reached = threading.Event()

    def read(self, digest: str) -> Caller | None:
        self.asked.append(digest)
        self.reached.set()
        if self.away:
            raise OperationalError("connection refused")
        row = self.rows.get(digest)
        assert self.free.wait(10)
        return row

    async def until_asked(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 10)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    database = Database()
    monkeypatch.setattr(ring_module, "_read_key", database.read)
    yield database
    database.free.set()


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing()


async def test_a_known_key_is_not_asked_for_again(database: Database, ring: KeyRing) -> None:
    assert await ring.find("a") is ALICE
    assert await ring.find("a") is ALICE
    assert database.asked == ["a"]


async def test_an_unknown_key_is_not_asked_for_again(database: Database, ring: KeyRing) -> None:
    assert await ring.find("x") is None
    assert await ring.find("x") is None
    assert database.asked == ["x"]


async def test_many_requests_at_once_ask_once(database: Database, ring: KeyRing) -> None:
    database.free.clear()
    requests = [asyncio.ensure_future(ring.find("a")) for _ in range(50)]
    await database.until_asked()
    database.free.set()
    assert await asyncio.gather(*requests) == [ALICE] * 50
    assert database.asked == ["a"]


async def test_a_caller_who_hangs_up_does_not_fail_the_others(
    database: Database, ring: KeyRing
) -> None:
    database.free.clear()
    first, second = (asyncio.ensure_future(ring.find("a")) for _ in range(2))
    await database.until_asked()
    first.cancel()
    await asyncio.sleep(0)
    database.free.set()
    assert await second is ALICE
    assert first.cancelled()


async def test_what_a_look_up_before_a_change_brings_is_not_kept(
    database: Database, ring: KeyRing
) -> None:
    database.free.clear()
    before = asyncio.ensure_future(ring.find("a"))
    await database.until_asked()
    del database.rows["a"]
    ring.forget()
    database.free.set()
    assert await before is ALICE, "its request began while the key was good"
    assert await ring.find("a") is None  # M19


async def test_a_change_of_the_configuration_is_seen_by_the_next_request(
    database: Database, ring: KeyRing
) -> None:
    await ring.find("a")
    del database.rows["a"]
    ring.forget()
    assert await ring.find("a") is None


async def test_without_the_database_an_unknown_key_is_told_to_come_again(
    database: Database, ring: KeyRing
) -> None:
    database.away = True
    with pytest.raises(ServiceUnavailable) as refused:
        await ring.find("a")
    assert refused.value.retry_after  # M7
    database.away = False
    assert await ring.find("a") is ALICE, "the failure was not kept"


async def test_a_lost_database_is_not_asked_by_every_request(
    database: Database, ring: KeyRing
) -> None:
    ring.lose()
    with pytest.raises(ServiceUnavailable):
        await ring.find("a")
    assert database.asked == []
    ring.confirm()
    assert await ring.find("a") is ALICE


async def test_a_known_key_works_on_without_the_database(database: Database, ring: KeyRing) -> None:
    await ring.find("a")
    database.away = True
    ring.lose()
    assert await ring.find("a") is ALICE  # M8


async def test_after_the_grace_a_known_key_must_be_asked_for(
    database: Database, ring: KeyRing
) -> None:
    await ring.find("a")
    database.away = True
    over_at_once = override_settings(KEY_GRACE_S=-6)
    with over_at_once, pytest.raises(ServiceUnavailable):
        await ring.find("a")


async def test_a_key_ends_at_its_time_without_a_look_up(database: Database, ring: KeyRing) -> None:
    database.rows["a"] = Caller(name="alice", expires_at=time.time() + 0.05)
    assert await ring.find("a") is not None
    await asyncio.sleep(0.06)
    assert await ring.find("a") is None
    assert database.asked == ["a"]


async def test_a_flood_of_unknown_keys_does_not_fill_the_memory(
    database: Database, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "MAX_KEYS", 3)
    for number in range(20):
        await ring.find(f"x{number}")
    assert len(ring._callers) == 3
