"""The stream of a background response while its worker makes it.

The worker's own readers follow it in memory. For the others, and for afterwards, it is handed to
the database in blocks; a worker that dies takes less than a second of it along.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import orjson

from gateway_api.openai.responses.builder import Event
from sessions_app.events import Block

ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
MAX_BYTES = 32 * 1024 * 1024
"""Of one stream: some 120,000 tokens, each an event of its own."""


class Recording:
    """Events by number. The one that ends the stream is held back until the response is stored."""

    def __init__(self, head: Sequence[Event]) -> None:
        self._lines: list[str] = []
        self._held: Event | None = None
        self._over = False
        self._size = 0
        self._stored = 0
        self._changed = asyncio.Event()
        self.tell(head)

    def tell(self, events: Sequence[Event]) -> None:
        """Adds events, under numbers of their own. Past MAX_BYTES an error takes their place."""
        for event in events:
            if self._held is not None:
                return
            if event["type"] in ENDS:
                self._held = event
            elif self._size > MAX_BYTES:
                self._held = _too_long()
            else:
                self._append(event)
        self._wake()

    def unstored(self) -> Block:
        """What is not stored yet, without the end."""
        return Block(self._stored, self._lines[self._stored :])

    def ending(self) -> Block:
        """What is not stored yet, with the end."""
        lines = self._lines[self._stored :]
        if self._held is not None:
            lines.append(_line({**self._held, "sequence_number": len(self._lines)}))
        return Block(self._stored, lines, ends=self._held is not None)

    def mark_stored(self, block: Block) -> None:
        self._stored = max(self._stored, block.first + len(block.lines))

    def end(self, *, told: bool) -> None:
        """Nothing comes any more; what was held back is `told`, or it is not how it ended."""
        if told and self._held is not None:
            self._append(self._held)
        self._over = True
        self._wake()

    async def after(self, number: int) -> AsyncGenerator[tuple[int, str]]:
        """The events after this one, with their numbers, as they come."""
        at = number + 1
        while True:
            changed = self._changed
            for line in self._lines[at:]:
                yield at, line
                at += 1
            if at >= len(self._lines):
                if self._over:
                    return
                await changed.wait()

    def _append(self, event: Event) -> None:
        line = _line({**event, "sequence_number": len(self._lines)})
        self._size += len(line)
        self._lines.append(line)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _line(event: Event) -> str:
    return orjson.dumps(event).decode()


def _too_long() -> Event:
    message = "The stream is longer than can be kept: get the response itself when it has ended."
    return {"type": "error", "code": "stream_too_long", "message": message, "param": None}
