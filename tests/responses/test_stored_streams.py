"""Streams in memory and in the database: blocks, bounds, cancelled and dead ones."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_api.openai.responses import recording as recordings
from gateway_api.openai.responses.recording import Recording
from sessions_app import responses
from sessions_app.events import (
    Block,
    Told,
    finish_stream,
    has_stream,
    note_events,
    queue_stream,
    told_after,
)
from sessions_app.models import ResponseEvents, StoredResponse
from sessions_app.responses import UnknownResponse
from tests.responses.test_storage import background, kept


def block(first: int, count: int, *, ends: bool = False) -> Block:
    return Block(first, [f'{{"n":{number}}}' for number in range(first, first + count)], ends=ends)


def numbers(told: Told) -> list[int]:
    for number, line in told.lines:
        assert line == f'{{"n":{number}}}'
    return [number for number, _ in told.lines]


@pytest.fixture
def _made(db: Any) -> None:
    queue_stream(background("a"), block(0, 2))
    note_events("ci", "a", block(2, 3))


done = kept("a", background=True)


@pytest.mark.usefixtures("_made")
def test_events_are_had_behind_any_of_them() -> None:
    assert finish_stream(done, block(5, 2, ends=True))
    for after in range(-1, 9):
        told = told_after("ci", "a", after)
        assert numbers(told) == list(range(after + 1, 7))
        assert told.over
        assert told.body is None
    assert has_stream("ci", "a")


@pytest.mark.usefixtures("_made")
def test_a_stream_that_goes_on_is_not_over() -> None:
    for after in (-1, 4, 9):
        assert not told_after("ci", "a", after).over


@pytest.mark.usefixtures("_made")
def test_a_block_that_grew_before_its_writer_knew_it_was_stored_takes_its_place() -> None:
    note_events("ci", "a", block(2, 5))
    assert numbers(told_after("ci", "a", -1)) == list(range(7))
    assert numbers(told_after("ci", "a", 3)) == [4, 5, 6]


@pytest.mark.usefixtures("_made")
def test_a_cancelled_stream_takes_no_more_and_ends_with_its_response() -> None:
    responses.cancel("ci", "a")
    note_events("ci", "a", block(5, 1))
    assert not finish_stream(done, block(5, 2, ends=True))
    told = told_after("ci", "a", 1)
    assert numbers(told) == [2, 3, 4]
    assert not told.over  # the next look finds nothing but the response
    told = told_after("ci", "a", 4)
    assert told.body is not None
    assert (told.lines, told.over, told.body["status"]) == ([], True, "cancelled")


@pytest.mark.usefixtures("_made")
def test_a_dead_workers_stream_ends_with_the_failed_response() -> None:
    StoredResponse.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    told = told_after("ci", "a", 4)
    assert told.body is not None
    assert told.body["error"]["code"] == "server_error"
    # Should it live after all, its answer is kept; the stream has ended for those who read it.
    assert finish_stream(done, block(9, 1, ends=True))
    told = told_after("ci", "a", 4)
    assert told.body is not None
    assert (told.lines, told.body["status"]) == ([], "completed")


@pytest.mark.usefixtures("_made")
def test_to_finish_twice_is_to_finish_once() -> None:
    for _ in range(2):
        assert finish_stream(done, block(5, 2, ends=True))
    assert numbers(told_after("ci", "a", -1)) == list(range(7))


@pytest.mark.usefixtures("_made")
def test_another_keys_or_a_deleted_stream_is_unknown() -> None:
    for owner in ("other", "ci"):
        with pytest.raises(UnknownResponse):
            told_after(owner, "a" if owner == "other" else "b", -1)
        responses.forget("ci", "a") if owner == "other" else None
    assert ResponseEvents.objects.count() == 0


@pytest.mark.usefixtures("_made")
def test_events_are_forgotten_before_their_response() -> None:
    queue_stream(background("running"), block(0, 1))
    assert finish_stream(done, block(5, 2, ends=True))
    past = timezone.now() - timedelta(hours=responses.EVENTS_KEPT_HOURS + 1)
    ResponseEvents.objects.update(created_at=past)
    responses.forget_old()
    assert not has_stream("ci", "a")
    assert has_stream("ci", "running")


# --- in memory ----------------------------------------------------------------------------------


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text}


END = {"type": "response.completed"}


async def read(recording: Recording, after: int = -1) -> list[tuple[int, str]]:
    return [each async for each in recording.after(after)]


def kinds(lines: list[tuple[int, str]]) -> list[str]:
    return [orjson.loads(line)["type"] for _, line in lines]


async def test_readers_follow_it_and_its_end_waits_until_it_is_stored() -> None:
    recording = Recording([delta("a")])
    reader = asyncio.create_task(read(recording))
    await asyncio.sleep(0)
    recording.tell([delta("b"), END, delta("after the end")])
    await asyncio.sleep(0.01)
    assert not reader.done()
    assert [orjson.loads(line)["type"] for line in recording.ending().lines][-1] == END["type"]
    recording.end(told=True)
    told = await reader
    assert [number for number, _ in told] == [0, 1, 2]
    assert kinds(told)[-1] == END["type"]
    assert await read(recording, 5) == []


async def test_an_end_that_was_not_stored_is_not_told() -> None:
    recording = Recording([delta("a")])
    recording.tell([END])
    recording.end(told=False)
    assert len(await read(recording)) == 1


async def test_one_longer_than_can_be_kept_ends_in_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recordings, "MAX_BYTES", 1000)
    recording = Recording([])
    recording.tell([delta("x" * 90)] * 100)
    recording.tell([END])
    recording.end(told=True)
    told = await read(recording)
    assert orjson.loads(told[-1][1])["code"] == "stream_too_long"
    assert sum(len(line) for _, line in told) < 1500


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=10), st.integers(0, 10))
def test_blocks_hold_every_event_once_whenever_they_are_taken(counts: list[int], lost: int) -> None:
    """`lost`: which of the blocks the database did not take at first."""
    recording = Recording([])
    stored: dict[int, str] = {}
    for at, count in enumerate(counts):
        recording.tell([delta(str(at))] * count)
        taken = recording.unstored()
        if at != lost:
            stored |= dict(enumerate(taken.lines, taken.first))
            recording.mark_stored(taken)
    recording.tell([END])
    last = recording.ending()
    stored |= dict(enumerate(last.lines, last.first))
    assert sorted(stored) == list(range(sum(counts) + 1))
    assert [orjson.loads(stored[at])["sequence_number"] for at in sorted(stored)] == sorted(stored)
    assert last.ends
