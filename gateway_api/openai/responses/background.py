"""Responses made after their request was answered: tasks of the worker that took the request.

The database is what workers share: a task's row says whether it is still wanted, and its heartbeat
whether its worker lives. One watcher per worker looks after all of its tasks.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, InterfaceError

from chat.errors import GatewayError, ServiceUnavailable
from gateway_api.errors import as_gateway_error
from gateway_api.openai.responses.builder import Event
from gateway_api.openai.responses.recording import Recording
from gateway_api.openai.responses.resource import failed
from gateway_api.openai.responses.telling import split_events
from gateway_api.openai.responses.turn import Turn
from providers.database import in_database
from sessions_app.events import finish_stream, note_events, queue_stream
from sessions_app.responses import Kept, begin, keep, queue, still_wanted

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.4
"""A cancellation on another worker takes effect within this, and a database's answer."""

STOP_WITHIN_S = 5.0
_TOLD_BEFORE = ("response.created", "response.queued")
STORE_AGAIN_AFTER_S = (0.5, 2.0, 8.0, 32.0)

Name = tuple[str, str]
"""A response's owner and id."""


@dataclass(slots=True)
class BackgroundTurn(Turn):
    """A turn that nobody waits for: what it comes to is stored by the task that makes it."""

    recording: Recording | None = None
    """The stream, where one was asked for."""
    outcome: Kept | None = None

    async def keep(self, body: dict[str, Any], *, native: bool) -> None:
        self.outcome = self.kept(body, native=native)

    def kept(self, body: dict[str, Any], *, native: bool) -> Kept:
        kept = Turn.kept(self, body, native=native)
        kept.background, kept.response_id = True, self.response_id
        return kept

    def _amendments(self) -> dict[str, Any]:
        amendments = Turn._amendments(self)
        return {**amendments, "id": self.response_id, "background": True}


_running: dict[Name, tuple[BackgroundTurn, asyncio.Task[None]]] = {}
_watchers: set[asyncio.Task[None]] = set()


async def start(turn: BackgroundTurn) -> dict[str, Any]:
    """Stores the response as queued and begins to make it. Returns it as it is."""
    body = turn.empty_response("queued")
    if turn.prepared.asked.params.stream:
        turn.recording = Recording(
            [{"type": kind, "response": body} for kind in ("response.created", "response.queued")]
        )
    try:
        await _queue(turn, body)
    except BaseException:
        turn.exchange.admission.settle(0)
        raise
    name = (turn.owner, turn.response_id)
    task = asyncio.get_running_loop().create_task(_make(turn))
    _running[name] = turn, task
    task.add_done_callback(lambda _: _running.pop(name, None))
    if not _watchers:
        _watchers.add(asyncio.get_running_loop().create_task(_watch()))
    return body


async def _queue(turn: BackgroundTurn, body: dict[str, Any]) -> None:
    kept, recording = turn.kept(body, native=False), turn.recording
    if recording is None:
        await in_database(queue, kept)
        return
    block = recording.unstored()
    await in_database(queue_stream, kept, block)
    recording.mark_stored(block)


def recording_of(owner: str, response_id: str) -> Recording | None:
    """The stream of a response that this worker makes now."""
    running = _running.get((owner, response_id))
    return None if running is None else running[0].recording


def stop(owner: str, response_id: str) -> None:
    """Ends the task that makes a response, where it is this worker's."""
    if (running := _running.get((owner, response_id))) is not None:
        running[1].cancel()


async def stop_all() -> None:
    """Ends every task of this worker, which is stopping; their responses say so."""
    for task in (tasks := [task for _, task in _running.values()]):
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_WITHIN_S)


async def _make(turn: BackgroundTurn) -> None:
    stored = False
    try:
        if await in_database(begin, turn.owner, turn.response_id):
            await _answer(turn)
            stored = await _store(turn)
    except (DatabaseError, InterfaceError) as error:
        logger.error("The response %s could not be begun: %s", turn.response_id, error)
    except asyncio.CancelledError:
        # Cancelled by its owner, and marked so already; or the server is stopping.
        if turn.outcome is None:
            _fail(turn, ServiceUnavailable("The server stopped before this was done."))
        stored = await _store(turn)
        raise
    finally:
        if turn.recording is not None:
            turn.recording.end(told=stored)
        turn.exchange.admission.settle(0)  # nothing is left to settle where it came to an exchange


async def _answer(turn: BackgroundTurn) -> None:
    """Brings the turn to an outcome, of which the recording has told."""
    try:
        if turn.recording is None:
            await turn.complete()
            return
        async with aclosing(turn.pieces()) as pieces:
            async for piece in pieces:
                _record(turn, turn.recording, split_events(piece))
    except Exception as error:  # an edge: nobody waits for this task but the row
        _fail(turn, as_gateway_error(error))


def _record(turn: BackgroundTurn, recording: Recording, events: list[Event]) -> None:
    for event in events:
        if event["type"] == "error":
            error = GatewayError(event["message"], code=event["code"], param=event["param"])
            _fail(turn, error)
        elif event["type"] not in _TOLD_BEFORE:
            recording.tell([event])


def _fail(turn: BackgroundTurn, error: GatewayError) -> None:
    response = failed(turn.empty_response("failed"), error)
    turn.outcome = turn.kept(response, native=False)
    if turn.recording is not None:
        turn.recording.tell([{"type": "response.failed", "response": response}])


async def _store(turn: BackgroundTurn) -> bool:
    """Stores the outcome, unless it is not wanted any more. The answer is paid for: a database
    that is away for a while is tried again."""
    assert turn.outcome is not None
    for pause in (*STORE_AGAIN_AFTER_S, None):
        try:
            if turn.recording is None:
                return await in_database(keep, turn.outcome)
            return await in_database(finish_stream, turn.outcome, turn.recording.ending())
        except (DatabaseError, InterfaceError) as error:
            logger.error("The response %s could not be stored: %s", turn.response_id, error)
        if pause is not None:
            await asyncio.sleep(pause)
    return True  # its readers are told what became of it


async def _note_streams() -> None:
    """Stores what came of this worker's streams since the last look."""
    for (owner, response_id), (turn, _) in list(_running.items()):
        recording = turn.recording
        if recording is not None and (block := recording.unstored()).lines:
            await in_database(note_events, owner, response_id, block)
            recording.mark_stored(block)


async def _watch() -> None:
    try:
        while _running:
            await asyncio.sleep(LOOK_EVERY_S)
            running = set(_running)
            try:
                wanted = await in_database(still_wanted, running)
                await _note_streams()
            except (DatabaseError, InterfaceError) as error:
                logger.error("Background responses cannot be looked after now: %s", error)
                continue
            for name in running - wanted:
                stop(*name)
    finally:
        _watchers.clear()  # in the same step as the last look at the tasks, or one may be missed
