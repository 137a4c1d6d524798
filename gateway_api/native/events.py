"""`GET /v1/events/stream`: what happens, told while it does."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import orjson
from django.conf import settings
from django.db import Error
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request

from chat.errors import AuthenticationFailed, InvalidRequest, RateLimited, ServiceUnavailable
from chat.sse import KEEPALIVE, encode_event
from events_app.feed import AWAY_S, feed
from events_app.models import EventType
from events_app.telling import Wanted, dropped, frames, newest_id
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer
from gateway_api.async_view import AsyncAPIView
from gateway_api.errors import as_gateway_error, openai_body
from gateway_api.native.usage import visible_to
from gateway_api.openai.schema import ERROR_RESPONSES
from gateway_api.schemas import only
from keys.authentication import header, identify
from keys.ring import ring

RECHECK_S = 3.0
"""How often an open stream is asked again who reads it. With the second in which a change of the
configuration reaches every worker, a revoked key's stream ends within 5 s."""
RETRY_MS = 2000
CONTENT_TYPE = "text/event-stream"
MAX_ID = 2**63 - 1
MAX_TEXT = 300

_EXAMPLE = (
    "id: 4711\nevent: generation_started\n"
    'data: {"type":"generation_started","timestamp":"2026-01-31T12:00:00.123Z",'
    '"request_id":"req_…","key":"ci","provider":"openai","model":"openai/gpt-4o-mini",'
    '"stream":true,"has_tools":false,"route":null}\n\n'
)
_PARAMETERS = [
    OpenApiParameter("types", str, description="Types of events, separated by commas."),
    OpenApiParameter("session_id", str, description="A session's events only."),
    OpenApiParameter("request_id", str, description="The value of `x-request-id`."),
    OpenApiParameter("after", int, description="An event's `id`: begins with what came behind it."),
    OpenApiParameter(
        "Last-Event-ID",
        int,
        OpenApiParameter.HEADER,
        description="The same, as browsers send it when they come back; goes before `after`.",
    ),
]


class EventStreamView(AsyncAPIView):
    """The caller's own events; an admin's stream has everyone's."""

    @extend_schema(
        operation_id="stream_events",
        summary="Live events",
        description="Server-sent events, from now on or behind an id; comments in between. "
        "`event: dropped` tells a reader that was too slow how many it missed; `event: error` with "
        "an error object ends the stream of a caller who may not read any longer.",
        parameters=_PARAMETERS,
        responses={
            (200, CONTENT_TYPE): OpenApiResponse(
                OpenApiTypes.STR, examples=[OpenApiExample("event", value=_EXAMPLE)]
            ),
            **only(ERROR_RESPONSES, 400, 401, 429, 503),
        },
        tags=["Operations"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        wanted, after = read_wanted(request), read_after(request)
        if request.method == "HEAD":
            return Answer(b"", content_type=CONTENT_TYPE)
        stream = _Stream(request, wanted, after)
        pieces = stream.pieces()
        return StreamAnswer(
            await anext(pieces), pieces, keepalive=KEEPALIVE, failure=_ending, check=stream.check
        )


_open: Counter[str] = Counter()
"""This worker's streams, by the names of those who read them."""


@contextmanager
def _counted(name: str) -> Iterator[None]:
    """Raises RateLimited when somebody has as many streams open as one may."""
    if _open[name] >= settings.EVENT_STREAMS_PER_KEY:
        raise RateLimited(
            f"'{name}' has {_open[name]} event streams open at this worker already.",
            code="too_many_streams",
            retry_after="5",
        )
    _open[name] += 1
    try:
        yield
    finally:
        _open[name] -= 1
        if not _open[name]:
            del _open[name]


class _Stream:
    """One reader: a cursor into the feed, and what it may be told."""

    def __init__(self, request: Request, wanted: Wanted, after: int | None) -> None:
        self._request = request._request
        self._name = request.user.name  # type: ignore[union-attr]
        self._wanted = wanted
        self._after = after
        self._cursor = 0
        self._has_caught_up = False
        self._generation = -1
        self._check_due = 0.0

    async def pieces(self) -> AsyncGenerator[bytes]:
        """A greeting, then events as they come, until the server stops. Raises RateLimited before
        the greeting, AuthenticationFailed when the caller may not read any longer."""
        with _counted(self._name):
            newest = await asyncio.to_thread(newest_id)
            # An id from the future is another database's, from before a restored backup.
            self._cursor = newest if self._after is None else min(self._after, newest)
            with feed.reading(newest):
                yield _greeting(self._cursor)
                while not feed.is_closed:
                    if await self._may_go_on() and (piece := await self._next()):
                        yield piece
                    else:
                        await feed.wait(self._cursor, RECHECK_S)

    async def _may_go_on(self) -> bool:
        """Asks again who reads this, now and then and after every change of the configuration.
        While that cannot be found out nothing is told, and the stream stays."""
        if self._generation == ring.generation and time.monotonic() < self._check_due:
            return True
        try:
            await self._ask_again()
        except ServiceUnavailable:
            await asyncio.sleep(AWAY_S)
            return False
        return True

    async def check(self) -> None:
        """Raises what ends the stream of a caller who may not read any longer, or of any while the
        server stops."""
        if feed.is_closed:
            raise ServiceUnavailable("The server stops.")
        with suppress(ServiceUnavailable):
            await self._ask_again()

    async def _ask_again(self) -> None:
        generation = ring.generation
        caller = await identify(self._request)
        if caller.name != self._name:
            # In local mode a revoked key leaves an administrator behind.
            raise AuthenticationFailed("The API key is not the one that opened this stream.")
        self._wanted = replace(self._wanted, owner=visible_to(caller))
        self._generation, self._check_due = generation, time.monotonic() + RECHECK_S

    async def _next(self) -> bytes:
        if self._cursor >= feed.floor:
            self._has_caught_up = True
            told, self._cursor = feed.read(self._cursor, self._wanted)
            return frames(told)
        try:
            return await (self._skip() if self._has_caught_up else self._catch_up())
        except Error:  # the feed says so in the log
            await asyncio.sleep(AWAY_S)
            return b""

    async def _catch_up(self) -> bytes:
        told, self._cursor = await feed.read_missed(self._cursor, self._wanted)
        return frames(told)

    async def _skip(self) -> bytes:
        """The reader was too slow: it goes on with what happens now, and is told of the gap."""
        after = self._cursor
        count, self._cursor = await feed.count_missed(after, self._wanted)
        return dropped(count, after) if count else b""


def _greeting(cursor: int) -> bytes:
    """How soon to come back, and behind which id: a reader may have to before it is told any."""
    return b"retry: %d\nid: %d\n\n" % (RETRY_MS, cursor)


def _ending(error: Exception) -> bytes:
    return encode_event(orjson.dumps(openai_body(as_gateway_error(error))), "error")


# --- parameters -------------------------------------------------------------------------------


def read_wanted(request: Request) -> Wanted:
    """Raises InvalidRequest that names the parameter."""
    return Wanted(
        owner=visible_to(request.user),  # type: ignore[arg-type]
        types=_read_types(",".join(request.query_params.getlist("types"))),
        session_id=_read_text(request, "session_id"),
        request_id=_read_text(request, "request_id"),
    )


def read_after(request: Request) -> int | None:
    """The id behind which to begin; None for now. A browser that comes back sends the header, and
    the address it began with. Raises InvalidRequest."""
    sent = header(request._request, "last-event-id")
    name = "Last-Event-ID" if sent else "after"
    value = sent or request.query_params.get("after")
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", value) or int(value) > MAX_ID:
        raise InvalidRequest(f"`{name}` must be the id of an event.", param=name)
    return int(value)


def _read_types(text: str) -> frozenset[str]:
    types = [name for part in text.split(",") if (name := part.strip())]
    for name in types:
        if name not in EventType.values:
            raise InvalidRequest(
                f"There is no type of events named '{name[:64]}'; there are "
                f"{', '.join(EventType.values)}.",
                param="types",
                code="invalid_value",
            )
    return frozenset(types)


def _read_text(request: Request, name: str) -> str:
    value = request.query_params.get(name, "")
    if len(value) > MAX_TEXT or "\0" in value:
        raise InvalidRequest(f"`{name}` is not a name an event could hold.", param=name)
    return value
