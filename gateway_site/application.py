"""The gateway as one ASGI callable: starts what a worker needs, then routes by protocol."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from contextlib import suppress
from types import FrameType

from django.urls import get_resolver

from events_app.doorbell import doorbell
from events_app.feed import feed
from gateway_api.openai.responses.background import stop_all
from gateway_api.resources import http_client
from gateway_site.asgi_handler import LeanASGIHandler, Receive, Scope
from gateway_site.background import Background
from gateway_site.writer import Send
from providers import breakers, health


def _spare_the_collector() -> None:
    """What is loaded now stays for good: the cyclic collector need not walk it again and again, nor
    look after every few hundred allocations (9 % of the CPU under load did nothing else)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _end_streams_first() -> None:
    """Streams of events end as soon as the server is asked to stop. It would wait for them as for
    answers: uvicorn tells the application nothing before all connections are done."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        servers = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, servers: object = servers) -> None:
            with suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(feed.close)
            if callable(servers):
                servers(number, frame)

        if callable(servers):
            signal.signal(number, stop)


class GatewayApplication:
    """Made once per worker. Servers that speak the lifespan protocol (uvicorn) start and stop the
    background thread with it; daphne does not, so the first request starts it too."""

    def __init__(self) -> None:
        # Loaded now: left to the first request it would cost that one more than a second.
        get_resolver().url_patterns  # noqa: B018
        self._handler = LeanASGIHandler()
        self._background = Background()
        self._watches: list[asyncio.Task[None]] = []
        _spare_the_collector()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":  # daphne asks for those who want a WebSocket
            await receive()
            await send({"type": "websocket.close"})
            return
        if not self._background.running:
            await self._start()
        await self._handler(scope, receive, send)

    async def _start(self) -> None:
        doorbell.attach(asyncio.get_running_loop())
        await asyncio.to_thread(self._background.start)
        if not self._watches:
            watches = (health.watch(http_client), breakers.follow())
            self._watches = [asyncio.create_task(watch) for watch in watches]

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start()
                _end_streams_first()
                await send({"type": "lifespan.startup.complete"})
            else:
                for watch in self._watches:
                    watch.cancel()
                await stop_all()
                await asyncio.to_thread(self._background.stop)
                await send({"type": "lifespan.shutdown.complete"})
                return
