"""Responses made after their request was answered: tasks of the worker that took the request.

The database is what workers share: a task's row says whether it is still wanted, and its heartbeat
whether its worker lives. One watcher per worker looks after all of its tasks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from django.db import DatabaseError, InterfaceError

from gateway_api import pipeline
from gateway_api.errors import as_gateway_error
from gateway_api.openai.responses.resource import failed
from gateway_api.openai.responses.turn import Turn
from providers.database import in_database
from sessions_app.responses import Kept, begin, keep, queue, still_wanted

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.4
"""A cancellation on another worker takes effect within this, and a database's answer."""

STOP_WITHIN_S = 5.0
STORE_AGAIN_AFTER_S = (0.5, 2.0, 8.0, 32.0)

Name = tuple[str, str]
"""A response's owner and id."""

_tasks: dict[Name, asyncio.Task[None]] = {}
_watchers: set[asyncio.Task[None]] = set()


async def start(turn: Turn) -> dict[str, Any]:
    """Stores the response as queued and begins to make it. Returns it as it is."""
    body = turn.empty_response("queued")
    try:
        await in_database(queue, _kept(turn, body))
    except BaseException:
        turn.exchange.admission.settle(0)
        raise
    name = (turn.owner, turn.response_id)
    task = asyncio.get_running_loop().create_task(_make(turn))
    _tasks[name] = task
    task.add_done_callback(lambda _: _tasks.pop(name, None))
    if not _watchers:
        _watchers.add(asyncio.get_running_loop().create_task(_watch()))
    return body


def stop(owner: str, response_id: str) -> None:
    """Ends the task that makes a response, where it is this worker's."""
    if (task := _tasks.get((owner, response_id))) is not None:
        task.cancel()


async def stop_all() -> None:
    """Ends every task of this worker, which is stopping; their responses say so."""
    for task in (tasks := list(_tasks.values())):
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_WITHIN_S)


async def _make(turn: Turn) -> None:
    try:
        if await in_database(begin, turn.owner, turn.response_id):
            await _store(turn, await _answer(turn))
    except (DatabaseError, InterfaceError) as error:
        logger.error("The response %s could not be begun: %s", turn.response_id, error)
    except asyncio.CancelledError:
        # Cancelled by its owner, and marked so already; or the server is stopping.
        cut_off = {"code": "server_error", "message": "The server stopped before this was done."}
        body = {**turn.empty_response("failed"), "error": cut_off}
        await _store(turn, _kept(turn, body))
        raise
    finally:
        turn.exchange.admission.settle(0)  # nothing is left to settle where it came to an exchange


async def _answer(turn: Turn) -> Kept:
    try:
        reply = await pipeline.complete(turn.exchange)
        body = turn.read(reply)
    except Exception as error:  # an edge: nobody waits for this task but the row
        return _kept(turn, failed(turn.empty_response("failed"), as_gateway_error(error)))
    kept = turn.kept(body, native=reply.wire == "responses")
    kept.background, kept.response_id = True, turn.response_id
    kept.body = {**body, "id": turn.response_id, "background": True}
    return kept


async def _store(turn: Turn, kept: Kept) -> None:
    """The answer is paid for: a database that is away for a while is tried again."""
    for pause in (*STORE_AGAIN_AFTER_S, None):
        try:
            await in_database(keep, kept)
            return
        except (DatabaseError, InterfaceError) as error:
            logger.error("The response %s could not be stored: %s", turn.response_id, error)
        if pause is not None:
            await asyncio.sleep(pause)


def _kept(turn: Turn, body: dict[str, Any]) -> Kept:
    kept = turn.kept(body, native=False)
    kept.background = True
    return kept


async def _watch() -> None:
    try:
        while _tasks:
            await asyncio.sleep(LOOK_EVERY_S)
            running = set(_tasks)
            try:
                wanted = await in_database(still_wanted, running)
            except (DatabaseError, InterfaceError) as error:
                logger.error("Background responses cannot be looked after now: %s", error)
                continue
            for name in running - wanted:
                stop(*name)
    finally:
        _watchers.clear()  # in the same step as the last look at the tasks, or one may be missed
