"""`POST /v1/sessions/{id}/compact`: the model sums up what was said long ago."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import Conflict, InvalidRequest, UpstreamFailed
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from events_app.publishing import publish
from gateway_api import pipeline
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import read_optional
from gateway_api.exchange import Call
from gateway_api.native import sessions_schema as schema
from gateway_api.native.session_fields import public_model, require_known, told
from gateway_api.native.session_history import MAX_COUNTS, Room, count_prompt, plan_of, room_for
from gateway_api.native.session_keeping import charge, enter_line
from gateway_api.native.session_telling import in_words
from gateway_api.native.session_turn import lost, turn_of
from gateway_api.own import OwnView, not_found
from gateway_api.resources import http_client, journal
from keys.caller import Caller
from providers.database import in_database
from providers.routing import Plan
from sessions_app import transcripts
from sessions_app.ids import Unknown
from sessions_app.session_rows import SessionMessage
from sessions_app.transcripts import Said
from sessions_app.turns import Place, TurnLost
from usage.lines import Closed

MakeCall = Callable[[ChatRequest, str], Call]

_ASKED = {
    "role": "user",
    "content": "Sum up the conversation so far for whoever goes on with it: who the people are, "
    "what was decided, what is still open, names, numbers and wishes. Only the summary.",
}
NOTHING = "nothing_to_compact"
_LEAD = "Summary of the conversation so far:\n\n"


class CompactSessionView(OwnView):
    """Old turns become one message; the session's id stays, and they can still be read."""

    @extend_schema(
        operation_id="compact_session",
        summary="Sum up the old turns of a session",
        request=schema.COMPACT_REQUEST,
        responses=schema.COMPACT_RESPONSES,
        tags=schema.TAG,
    )
    async def post(self, request: Request, session_id: str) -> AnyAnswer:
        session = await self.own(transcripts.find, session_id)
        body = await _read(request)
        model = body.get("model") or public_model(session)

        try:
            async with turn_of(self.caller.name, session_id) as place:
                call = partial(self._call, session_id=session_id, waited_s=place.waited_s)
                covered = await _summarise_all(call, place, model, caller=self.caller)
        except Unknown as unknown:
            raise not_found(unknown) from None
        row = await self.own(transcripts.find, session_id)
        return json_answer({"status": "compacted", "compacted_messages": covered, **told(row)})

    def _call(self, asked: ChatRequest, endpoint: str, *, session_id: str, waited_s: float) -> Call:
        http_request: Any = self.request._request
        return Call(
            caller=self.caller,
            request=asked,
            request_id=http_request.request_id,
            wire="openai",
            endpoint=endpoint,
            started=http_request.started,
            traceparent=http_request.traceparent,
            session_id=session_id,
            waited_s=waited_s,
        )


async def _read(request: Request) -> dict[str, Any]:
    body = await read_optional(request)
    require_known(body, {"model"})
    if not isinstance(body.get("model", ""), str | None):
        raise InvalidRequest("'model' must be a string.", param="model", code="invalid_type")
    return body


def _beginning(messages: list[SessionMessage], budget: int) -> list[SessionMessage]:
    """The oldest whole turns that fit: a summary of the rest is made when it is called for."""
    fitting = 0
    for at, row in enumerate(messages):
        if row.role == "user":
            fitting = at
        budget -= row.tokens
        if budget < 0:
            return messages[:fitting]
    return messages


async def _what_fits(
    plan: Plan, room: Room, model: str | None, messages: list[SessionMessage]
) -> tuple[list[SessionMessage], ChatRequest]:
    """The oldest whole turns that the model takes at once, and the request to sum them up."""
    for _ in range(MAX_COUNTS):
        old = _beginning(messages, room.budget)
        request = _request(model, old)
        counted = await count_prompt(plan, request) if old else None
        if counted is None or counted <= room.limit:
            break
        room.measure(counted, sum(row.tokens for row in old))
    return old, request


def _request(model: str | None, messages: list[SessionMessage]) -> ChatRequest:
    told = [*(in_words(row.read()) for row in messages), _ASKED]
    return parse_chat_request(orjson.dumps({"model": model, "messages": told}))


async def _summarise_all(call: MakeCall, place: Place, model: str | None, *, caller: Caller) -> int:
    """`summarise` until only the last turn is left. Raises Conflict where there was nothing."""
    covered = await summarise(call, place, model, caller=caller)
    while True:
        try:
            covered += await summarise(call, place, model, caller=caller)
        except Conflict as conflict:
            if conflict.code != NOTHING:
                raise
            return covered


async def summarise(call: MakeCall, place: Place, model: str | None, *, caller: Caller) -> int:
    """Has turns before the last one summed up, as many as the model takes at once; returns how
    many messages the summary covers. A request of its own in the ledger. Raises GatewayError, and
    Conflict where there is nothing."""
    begins = await in_database(transcripts.last_turn, place.session)
    before = await in_database(transcripts.read_before, place.session, begins or 0)
    plan = await plan_of(caller, model)
    room = room_for(plan, {"messages": [_ASKED]})
    old, request = before.messages, _request(model, before.messages)
    if room is not None and not room.surely_takes(before.tokens):
        old, request = await _what_fits(plan, room, model, before.messages)
    if not any(not row.summary for row in old):
        raise Conflict("The session has no turns to sum up.", code=NOTHING)
    exchange = await pipeline.begin(
        call(request, "sessions.compact"), http=http_client(), journal=journal()
    )
    try:
        reply = await pipeline.complete(exchange)
    except BaseException:
        await charge(exchange)
        raise
    text = orjson.loads(reply.body)["choices"][0]["message"].get("content")
    if not text:
        await charge(exchange)
        raise UpstreamFailed("The model summed up nothing.")
    target = exchange.dispatch.target
    summary = Said(
        {"role": "system", "content": _LEAD + text},
        provider=target.provider.name,
        model=target.model,
    )
    until = old[-1].number
    try:
        covered = await in_database(_compact, place, summary, exchange.closed, until=until)
    except TurnLost:
        raise lost() from None
    publish(
        "session_compacted",
        {"messages": covered},
        request_id=exchange.call.request_id,
        key=exchange.call.caller.name,
        session_id=exchange.call.session_id,
        provider=target.provider.name,
        model=exchange.plan.model,
    )
    return covered


def _compact(place: Place, summary: Said, line: Closed | None, *, until: int) -> int:
    enter_line(line)
    return transcripts.compact(place, summary, until=until)
