"""The gateway as one ASGI callable: starts what a worker needs, then routes by protocol."""

from __future__ import annotations

import asyncio
import gc

from django.urls import get_resolver

from gateway_api.openai.responses.background import stop_all
from gateway_site.asgi_handler import LeanASGIHandler, Receive, Scope
from gateway_site.background import Background
from gateway_site.writer import Send


def _spare_the_collector() -> None:
    """What is loaded now stays for good: the cyclic collector need not walk it again and again, nor
    look after every few hundred allocations (9 % of the CPU under load did nothing else)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class GatewayApplication:
    """Made once per worker. Servers that speak the lifespan protocol (uvicorn) start and stop the
    background thread with it; daphne does not, so the first request starts it too."""

    def __init__(self) -> None:
        # Loaded now: left to the first request it would cost that one more than a second.
        get_resolver().url_patterns  # noqa: B018
        self._handler = LeanASGIHandler()
        self._background = Background()
        _spare_the_collector()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"no {scope['type']} connections are served here")
        if not self._background.running:
            await asyncio.to_thread(self._background.start)
        await self._handler(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await asyncio.to_thread(self._background.start)
                await send({"type": "lifespan.startup.complete"})
            else:
                await stop_all()
                await asyncio.to_thread(self._background.stop)
                await send({"type": "lifespan.shutdown.complete"})
                return
