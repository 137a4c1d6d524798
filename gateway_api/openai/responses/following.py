"""The stream of a background response, for its caller and for those who come back to it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from django.db import DatabaseError, InterfaceError
from django.http import QueryDict

from chat.errors import InvalidRequest
from chat.sse import encode_event
from gateway_api.openai.responses.recording import ENDS, Recording
from providers.database import in_database
from sessions_app.events import Told, told_after
from sessions_app.responses import UnknownResponse

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.3
"""How late another worker's events come, and a database's answer."""
_ENDINGS = {"completed": "response.completed", "failed": "response.failed"}


def read_starting_after(query: QueryDict) -> int:
    """The number of the event a stream goes on behind; -1 for all of it. Raises InvalidRequest."""
    value = query.get("starting_after")
    if value is None:
        return -1
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        raise InvalidRequest(
            "'starting_after' must be the sequence number of an event.", param="starting_after"
        )
    return int(value)


async def follow(
    owner: str, response_id: str, *, after: int, recording: Recording | None
) -> AsyncGenerator[bytes]:
    """The events after a number until the one that ends the stream: out of this worker's memory
    where it makes the response, else from the database."""
    if recording is not None:
        async for number, line in recording.after(after):
            yield _encode(line)
            after = number
            if _ends(line):
                return
    while True:
        told = await _look(owner, response_id, after)
        for number, line in told.lines:
            yield _encode(line)
            after = number
        if told.body is not None:
            yield _encode(_ending(told.body, after + 1))
        if told.over:
            return
        if not told.lines:
            await asyncio.sleep(LOOK_EVERY_S)


async def _look(owner: str, response_id: str, after: int) -> Told:
    try:
        return await in_database(told_after, owner, response_id, after)
    except UnknownResponse:
        gone = {"type": "error", "code": "not_found", "message": "The response was deleted."}
        line = orjson.dumps({**gone, "param": None, "sequence_number": after + 1}).decode()
        return Told([(after + 1, line)], over=True)
    except (DatabaseError, InterfaceError) as error:
        logger.error("A stream cannot be followed now: %s", error)
        return Told()


def _ending(body: dict[str, Any], number: int) -> str:
    """The last event of a stream that was cut short. The API has none for a cancelled response."""
    kind = _ENDINGS.get(body["status"], "response.incomplete")
    return orjson.dumps({"type": kind, "response": body, "sequence_number": number}).decode()


def _ends(line: str) -> bool:
    return _type_of(line) in ENDS


def _encode(line: str) -> bytes:
    return encode_event(line.encode(), _type_of(line))


def _type_of(line: str) -> str:
    kind: str = orjson.loads(line)["type"]
    return kind
