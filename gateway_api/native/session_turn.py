"""One turn of a session: waited for, held while it lasts, ended whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from django.db import Error

from chat.errors import Conflict
from providers.database import in_database
from sessions_app import turns
from sessions_app.turns import Place, TooManyWaiting, TurnLost, UnknownSession

logger = logging.getLogger(__name__)

WAIT_S = 30.0
_LOOK_EVERY_S = 0.1

_running: set[asyncio.Task[Any]] = set()


@asynccontextmanager
async def turn_of(owner: str, session_id: str) -> AsyncIterator[Place]:
    """The session's next turn, when those before it are over. Raises UnknownSession, and Conflict
    after half a minute."""
    asked = time.perf_counter()
    try:
        place = await _enter(owner, session_id)
    except TooManyWaiting:
        raise _busy("Too many turns of this session are waiting already.") from None
    try:
        if not place.first:
            await _wait_for(place)
            place = replace(place, waited_s=time.perf_counter() - asked)
        renewer = asyncio.create_task(_renew(place))
        try:
            yield place
        finally:
            renewer.cancel()
    finally:
        # Also for a caller who has left: nothing of this task may be waited for then.
        # One that cannot be given up now expires, and what it was for is done.
        with contextlib.suppress(Error):
            await see_through(in_database(turns.leave, place))


async def _enter(owner: str, session_id: str) -> Place:
    """A place, which nobody else leaves behind when the caller hangs up before it is known."""
    entering = asyncio.ensure_future(in_database(turns.enter, owner, session_id))
    try:
        return await asyncio.shield(entering)
    except asyncio.CancelledError:
        entering.add_done_callback(_leave_again)
        raise


def _leave_again(entering: asyncio.Future[Place]) -> None:
    if entering.cancelled() or entering.exception() is not None:
        return
    leaving = asyncio.ensure_future(in_database(turns.leave, entering.result()))
    _running.add(leaving)
    leaving.add_done_callback(_done)


async def see_through(work: Coroutine[Any, Any, None]) -> None:
    """Waits for work to its end, also where who waits for it is cancelled meanwhile: what comes
    next, such as giving up the turn, must not overtake it."""
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_done)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _done(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and task.exception() is not None:
        logger.warning("A session's turn could not be ended: %s", task.exception())


async def _wait_for(place: Place) -> None:
    until = time.monotonic() + WAIT_S
    renewed = time.monotonic()
    while not await _is_next(place):
        if time.monotonic() > until:
            raise _busy("Another turn of this session has gone on for half a minute.")
        await asyncio.sleep(_LOOK_EVERY_S)
        if time.monotonic() - renewed > turns.RENEW_EVERY_S:
            renewed = time.monotonic()
            await _sign_of_life(place)


async def _is_next(place: Place) -> bool:
    try:
        return await in_database(turns.advance, place)
    except TurnLost:
        raise lost() from None


async def _sign_of_life(place: Place) -> None:
    try:
        await in_database(turns.renew, place)
    except TurnLost:
        raise lost() from None


async def _renew(place: Place) -> None:
    """Until it is lost: whoever ends the turn is told so then."""
    with contextlib.suppress(TurnLost, UnknownSession):
        while True:
            await asyncio.sleep(turns.RENEW_EVERY_S)
            with contextlib.suppress(Error):  # the next one may come through
                await in_database(turns.renew, place)


def lost() -> Conflict:
    return _busy(
        "The session went on without this turn, which took too long to give a sign of life."
    )


def _busy(message: str) -> Conflict:
    error = Conflict(message, code="session_busy")
    error.should_retry = False
    return error
