"""What one worker reads for all of its readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import OperationalError

from events_app import feed as feeds
from events_app.feed import Feed
from events_app.telling import PAGE, Told, Wanted, tell
from tests.gateway import wait_until

pytestmark = pytest.mark.once
MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


def told(id_: int, **fields: str) -> Told:
    named = {"type": "error", "request_id": "r", "key": "ci", "session_id": "", **fields}
    texts = (named["request_id"], named["key"], named["session_id"])
    return tell((id_, named["type"], MOMENT, *texts, "", "", {}))


class Table:
    """The table of events: how often it is read, and whether it can be."""

    def __init__(self) -> None:
        self.rows: list[Told] = []
        self.reads = 0
        self.is_away = False

    def read_behind(self, cursor: int) -> list[Told]:
        self.reads += 1
        if self.is_away:
            raise OperationalError("no route to host")
        return [row for row in self.rows if row.id > cursor][:PAGE]

    def grow(self, number: int) -> None:
        first = len(self.rows) + 1
        self.rows += [told(id_) for id_ in range(first, first + number)]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    table = Table()
    monkeypatch.setattr(feeds, "read_behind", table.read_behind)
    monkeypatch.setattr(feeds, "POLL_S", 0.01)
    monkeypatch.setattr(feeds, "AWAY_S", 0.05)
    return table


async def read(feed: Feed, number: int, wanted: Wanted | None = None) -> list[int]:
    """The ids of so many events, read as a stream does."""
    ids: list[int] = []
    cursor = 0
    with feed.reading(0):
        async with asyncio.timeout(5):
            while len(ids) < number:
                page, cursor = feed.read(cursor, wanted or Wanted())
                ids += [each.id for each in page]
                if not page:
                    await feed.wait(cursor, 1)
    return ids


async def until(holds: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, holds, seconds=5)


async def test_the_table_is_read_once_however_many_read(table: Table) -> None:
    feed = Feed()
    readers = [asyncio.create_task(read(feed, 300)) for _ in range(50)]
    await asyncio.sleep(0.05)
    reads = table.reads
    table.grow(300)
    assert await asyncio.gather(*readers) == [list(range(1, 301))] * 50
    assert table.reads - reads < 5


async def test_nobody_reads_the_table_when_nobody_listens(table: Table) -> None:
    feed = Feed()
    table.grow(1)
    await read(feed, 1)
    await asyncio.sleep(0.03)
    reads = table.reads
    await asyncio.sleep(0.05)
    assert table.reads == reads


async def test_what_is_remembered_is_bounded(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MEMORY", 700)
    feed = Feed()
    table.grow(3000)
    with feed.reading(0):
        await until(lambda: feed.position == 3000)
        assert feed.floor == 2300
        page, cursor = feed.read(2300, Wanted())
        assert (page[0].id, cursor) == (2301, page[-1].id)


async def test_readers_go_on_when_the_table_can_be_read_again(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Feed()
    reader = asyncio.create_task(read(feed, 2))
    table.is_away = True
    await until(lambda: table.reads > 3)
    table.grow(2)
    table.is_away = False
    assert await reader == [1, 2]
    assert caplog.text.count("Live events wait") == 1


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Wanted(), [1, 2, 3, 4]),
        (Wanted(owner="ci"), [1, 3]),
        (Wanted(types=frozenset({"rate_limited"})), [3, 4]),
        (Wanted(owner="ci", session_id="s"), [3]),
        (Wanted(request_id="r-2"), [2]),
    ],
)
def test_a_reader_takes_what_it_wants(wanted: Wanted, ids: list[int]) -> None:
    events = [
        told(1),
        told(2, key="other", request_id="r-2"),
        told(3, type="rate_limited", session_id="s"),
        told(4, type="rate_limited", key="", session_id="s"),
    ]
    assert [event.id for event in events if wanted.takes(event)] == ids


def test_an_event_is_one_flat_object_that_tells_what_applies() -> None:
    fields = {"success": True, "cost_usd": 0.00012, "error": None, "type": "no", "key": "no"}
    row = (7, "tool_completed", MOMENT, "req_1", "ci", "", "openai", "openai/gpt", fields)
    frame = tell(row).frame.decode()
    head, event, data, *rest = frame.split("\n")
    assert (head, event, rest) == ("id: 7", "event: tool_completed", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "tool_completed",
        "timestamp": "2026-01-31T12:00:00.123Z",
        "request_id": "req_1",
        "key": "ci",
        "provider": "openai",
        "model": "openai/gpt",
        "success": True,
        "cost_usd": 0.00012,
        "error": None,
    }


def test_what_belongs_to_no_request_says_so() -> None:
    row: tuple[Any, ...] = (8, "config_changed", MOMENT, "", "", "", "", "", {"revision": 4})
    data = json.loads(tell(row).frame.split(b"data: ")[1])
    assert (data["request_id"], data["revision"]) == (None, 4)
