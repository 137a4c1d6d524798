"""The doorbell between the workers: who has inserted events rings, who tells them looks again.

A ring says nothing but that, and may be lost: whoever waits for it looks by itself soon after. So
nothing here may hold anything up. Rings come from the recorder's thread and go out from the
worker's event loop, several as one; a channel layer that fails or does not answer is left alone
for a while (M13), and said to be away once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from channels.layers import get_channel_layer

logger = logging.getLogger(__name__)

GROUP = "events"
PATIENCE_S = 2.0
QUIET_S = 5.0
"""How long a layer that failed is left alone."""


class Doorbell:
    """One worker's. All of it belongs to the worker's event loop, but `ring` to any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard: Callable[[], None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._ringing: asyncio.Task[None] | None = None
        self._again = False
        self._quiet_until = 0.0
        self._away = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Rings go out from this loop from now on."""
        if self._loop is not loop:
            self._loop, self._ringing = loop, None

    def ring(self) -> None:
        """Tells all workers to look, soon. Never waits, never fails."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the worker ends
                self._loop.call_soon_threadsafe(self._ring)

    def answer(self, heard: Callable[[], None]) -> None:
        """Calls `heard` at every ring from now on."""
        self._heard = heard
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    def stop(self) -> None:
        """Listens no longer."""
        self._heard = None
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None

    def _ring(self) -> None:
        # Here at once, whatever becomes of the layer.
        if self._heard is not None:
            self._heard()
        self._again = True
        if self._ringing is None and time.monotonic() >= self._quiet_until:
            self._ringing = asyncio.get_running_loop().create_task(self._tell_others())

    async def _tell_others(self) -> None:
        try:
            while self._again:
                self._again = False
                async with asyncio.timeout(PATIENCE_S):
                    await _layer().group_send(GROUP, {"type": "events.look"})
            self._return()
        except Exception as error:  # an edge: each layer's library raises errors of its own
            self._lose(error)
        finally:
            self._ringing = None

    async def _listen(self) -> None:
        while True:
            try:
                await self._hear()
            except Exception as error:  # an edge, as above
                self._lose(error)
            await asyncio.sleep(QUIET_S)

    async def _hear(self) -> None:
        layer = _layer()
        async with asyncio.timeout(PATIENCE_S):
            channel = await layer.new_channel()
            await layer.group_add(GROUP, channel)
        try:
            while True:
                await layer.receive(channel)
                if self._heard is not None:
                    self._heard()
        finally:
            await layer.group_discard(GROUP, channel)

    def _lose(self, error: Exception) -> None:
        self._quiet_until = time.monotonic() + QUIET_S
        if not self._away:
            cause = str(error) or type(error).__name__
            logger.error("The channel layer is away; events are looked for without it: %s", cause)
        self._away = True

    def _return(self) -> None:
        if self._away:
            logger.warning("The channel layer is back.")
        self._away = False


def _layer() -> Any:
    return get_channel_layer()


doorbell = Doorbell()
"""This worker's."""
