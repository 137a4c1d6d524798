"""Rings between workers: in one process, through Redis, and past a Redis that is in trouble."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers
from django.utils.module_loading import import_string

from events_app import doorbell as doorbells
from events_app.doorbell import Doorbell
from tests.conftest import require_or_skip
from tests.gateway import free_port, wait_until
from tests.scripted_redis import scripted_redis

pytestmark = pytest.mark.once


@asynccontextmanager
async def layer_at(address: str) -> AsyncIterator[None]:
    """The channel layer as REDIS_URL configures it; empty: as without one."""
    if not address:
        configured: dict[str, Any] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    else:
        host = {"address": address, "socket_connect_timeout": 2, "socket_timeout": 2}
        configured = {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [host], "prefix": "abstractcore:"},
        }
    before = channel_layers.backends.pop("default", None)
    layer = channel_layers.backends["default"] = _layer(configured)
    try:
        yield
    finally:
        await layer.flush()
        channel_layers.backends.pop("default")
        if before is not None:
            channel_layers.backends["default"] = before


def _layer(configured: dict[str, Any]) -> Any:
    return import_string(configured["BACKEND"])(**configured.get("CONFIG", {}))


class Worker:
    """A doorbell in the running loop, and how often it was heard."""

    def __init__(self) -> None:
        self.bell = Doorbell()
        self.bell.attach(asyncio.get_running_loop())
        self.heard = 0

    def listen(self) -> None:
        self.bell.answer(self._hear)

    def _hear(self) -> None:
        self.heard += 1


async def until(holds: Callable[[], bool], *, seconds: float = 5) -> None:
    await asyncio.to_thread(wait_until, holds, seconds=seconds)


async def assert_another_worker_hears() -> None:
    one, other = Worker(), Worker()
    other.listen()
    await asyncio.sleep(0.3)
    thread = threading.Thread(target=one.bell.ring)  # the recorder's
    thread.start()
    thread.join()
    await until(lambda: other.heard > 0)
    other.bell.stop()
    await asyncio.sleep(0.05)


async def test_a_ring_from_a_thread_is_heard() -> None:
    async with layer_at(""):
        await assert_another_worker_hears()


async def test_a_ring_is_heard_by_another_worker_through_redis() -> None:
    async with scripted_redis() as redis, layer_at(redis.url):
        await assert_another_worker_hears()


@pytest.fixture
def real_redis(tmp_path: Path) -> Iterator[str]:
    if shutil.which("redis-server") is None:
        require_or_skip("there is no redis-server on the path")
    port = str(free_port())
    command = ["redis-server", "--port", port, "--save", "", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path) as server:
        try:
            wait_until(lambda: listens(int(port)), seconds=10)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_ring_is_heard_through_a_real_redis(real_redis: str) -> None:
    async with layer_at(real_redis):
        await assert_another_worker_hears()


async def test_many_rings_are_few_messages() -> None:
    async with scripted_redis() as redis, layer_at(redis.url):
        redis.delay_s = 0.02
        worker = Worker()
        for _ in range(100):
            worker.bell.ring()
        await asyncio.sleep(0.5)
        assert 1 <= redis.published <= 3


async def ring_in_trouble(caplog: pytest.LogCaptureFixture) -> None:
    """A second of rings: each is heard here at once, and holds nobody up."""
    worker = Worker()
    worker.listen()
    longest = 0.0
    for number in range(1, 51):
        began = time.perf_counter()
        worker.bell.ring()
        await asyncio.sleep(0.02)
        longest = max(longest, time.perf_counter() - began)
        assert worker.heard == number
    assert longest < 0.2
    await until(lambda: "is away" in caplog.text)
    worker.bell.stop()
    assert caplog.text.count("is away") == 1


async def test_a_redis_that_is_away_is_said_once_and_harms_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbells, "PATIENCE_S", 0.3)
    async with layer_at(f"redis://127.0.0.1:{free_port()}/0"):
        await ring_in_trouble(caplog)


async def test_a_redis_of_twenty_seconds_an_answer_is_said_once_and_harms_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M13."""
    monkeypatch.setattr(doorbells, "PATIENCE_S", 0.3)
    logging.getLogger("channels_redis.pubsub").setLevel(logging.CRITICAL)
    async with scripted_redis() as redis, layer_at(redis.url):
        redis.delay_s = 20
        await ring_in_trouble(caplog)


async def test_a_redis_that_came_back_is_used_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbells, "PATIENCE_S", 0.2)
    monkeypatch.setattr(doorbells, "QUIET_S", 0.2)
    caplog.set_level(logging.WARNING)
    async with scripted_redis() as redis, layer_at(redis.url):
        redis.delay_s = 20
        one, other = Worker(), Worker()
        other.listen()
        one.bell.ring()
        await until(lambda: "is away" in caplog.text)
        redis.delay_s = 0

        def heard() -> bool:
            one.bell.ring()
            return other.heard > 0

        await until(heard)
        await until(lambda: "is back" in caplog.text)
        other.bell.stop()
        await asyncio.sleep(0.05)
