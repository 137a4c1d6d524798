"""The live events of one worker: read from the table once, for all who listen.

The feed follows the table from the moment its first reader comes until its last one leaves, and
remembers the newest events. A reader is only a cursor into that: nothing is kept for it, so one
that does not read costs nothing but its connection, however many there are.

What a reader has not seen of the time before the feed's memory it reads from the table itself
(`read_between`). Both have rows in the order of their ids, in which they become visible; there is
no seam between them that could gape or overlap.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from events_app.doorbell import doorbell
from events_app.telling import PAGE, Told, Wanted, count_between, read_behind, read_between

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""How soon the table is looked into again where no doorbell rings: other workers' need a Redis."""
AWAY_S = 1.0
MEMORY = 5000
"""Events remembered: as far behind may a reader fall before it is told that some were dropped."""
PIECE = 100
"""Events a reader takes at once: what it does not read of them is held for it alone."""
CATCHING_UP = 2
"""Readers that may ask the table at once: all of a worker's come back together after a restart."""


class Feed:
    """One worker's; all of it belongs to the worker's event loop.

    Every event with an id above `floor` and up to `position` is remembered.
    """

    def __init__(self) -> None:
        self.position = self.floor = 0
        self.is_closed = False
        self._memory: list[Told] = []
        self._readers = 0
        self._task: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._news: asyncio.Future[None] | None = None
        self._turns = asyncio.Semaphore(CATCHING_UP)
        self._is_away = False

    @contextmanager
    def reading(self, newest: int) -> Iterator[None]:
        """The feed is followed meanwhile; from `newest`, the table's last id, if nobody else
        listens already."""
        if not self._readers:
            self._start(newest)
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._stop()

    def close(self) -> None:
        """Ends all streams: the server stops."""
        self.is_closed = True
        self._tell_news()

    def read(self, cursor: int, wanted: Wanted) -> tuple[list[Told], int]:
        """The next wanted events behind a cursor that is not below `floor`, and the cursor behind
        them."""
        behind = bisect_right(self._memory, cursor, key=lambda told: told.id)
        page = self._memory[behind : behind + PIECE]
        return [told for told in page if wanted.takes(told)], page[-1].id if page else cursor

    async def read_missed(self, cursor: int, wanted: Wanted) -> tuple[list[Told], int]:
        """The same from the table, for a cursor below `floor`. Raises django.db.Error."""
        async with self._turns:
            return await asyncio.to_thread(read_between, cursor, self.position, wanted)

    async def count_missed(self, cursor: int, wanted: Wanted) -> tuple[int, int]:
        """How many wanted events there are behind the cursor, and the cursor behind them. Raises
        django.db.Error."""
        end = self.position
        async with self._turns:
            return await asyncio.to_thread(count_between, cursor, end, wanted), end

    async def wait(self, cursor: int, seconds: float) -> None:
        """Returns when there may be something behind the cursor, or after so many seconds."""
        if self.position <= cursor and not self.is_closed:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            # Not wait_for, which makes a task for each of those who wait.
            await asyncio.wait({self._news}, timeout=seconds)

    def _start(self, newest: int) -> None:
        self.position = self.floor = newest
        self._look = asyncio.Event()
        self._turns = asyncio.Semaphore(CATCHING_UP)
        self._news = None
        self._task = asyncio.get_running_loop().create_task(self._follow())
        doorbell.answer(self._look.set)

    def _stop(self) -> None:
        doorbell.stop()
        self._memory.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _follow(self) -> None:
        while True:
            self._look.clear()
            try:
                page = await asyncio.to_thread(read_behind, self.position)
            except Exception as error:  # an edge: whatever is wrong, streams go on when it is right
                await self._lose(error)
                continue
            self._take(page)
            if len(page) < PAGE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._look.wait()

    def _take(self, page: list[Told]) -> None:
        if self._is_away:
            logger.warning("Live events go on.")
            self._is_away = False
        if not page:
            return
        self._memory.extend(page)
        self.position = page[-1].id
        if (excess := len(self._memory) - MEMORY) > 0:
            self.floor = self._memory[excess - 1].id
            del self._memory[:excess]
        self._tell_news()

    def _tell_news(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None

    async def _lose(self, error: Exception) -> None:
        if not self._is_away:
            logger.error("Live events wait: the table of events cannot be read: %s", error)
            self._is_away = True
        await asyncio.sleep(AWAY_S)


feed = Feed()
"""This worker's."""
