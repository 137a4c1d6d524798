"""One generation at a time, the others in the order they came."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from providers.runner.serving.errors import Refusal

_MAX_RETRY_AFTER_S = 60


class Turns:
    """A queue with a bound. Who leaves it while waiting leaves no gap."""

    def __init__(self, *, most_waiting: int) -> None:
        self._most = most_waiting + 1
        self._taken = 0
        self._lock = asyncio.Lock()  # wakes its waiters in order
        self._usual_s = 1.0
        self._last_end = time.monotonic()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for its turn and holds it. Raises Refusal(429) at once where too many wait."""
        if self._taken >= self._most:
            raise self._full()
        self._taken += 1
        try:
            async with self._lock:
                began = time.monotonic()
                try:
                    yield
                finally:
                    self._usual_s += 0.3 * (time.monotonic() - began - self._usual_s)
        finally:
            self._taken -= 1
            self._last_end = time.monotonic()

    def idle_for(self) -> float:
        """Seconds since the last turn ended; 0 while there is one."""
        return 0.0 if self._taken else time.monotonic() - self._last_end

    def _full(self) -> Refusal:
        # The first place is free when the running generation ends.
        seconds = min(max(math.ceil(self._usual_s), 1), _MAX_RETRY_AFTER_S)
        return Refusal(
            f"This model answers one request at a time, and {self._most - 1} are waiting already.",
            status=429,
            code="queue_full",
            retry_after=seconds,
        )
