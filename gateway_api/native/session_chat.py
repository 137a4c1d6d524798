"""`POST /v1/sessions/{id}/chat`: the next turn of a session."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import Conflict, InvalidRequest
from chat.parsing import parse_chat_request, parse_object
from chat.requests import ChatRequest
from chat.sse import DONE, KEEPALIVE
from chat.types import Batch
from gateway_api import pipeline, request_examples
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer
from gateway_api.async_view import parse_apart, read_json_body
from gateway_api.exchange import Call, Exchange
from gateway_api.named_tools import with_definitions
from gateway_api.native import sessions_schema as schema
from gateway_api.native.session_compaction import summarise
from gateway_api.native.session_fields import public_model
from gateway_api.native.session_history import (
    Count,
    Room,
    count_prompt,
    fits,
    plan_of,
    read_history,
    room_for,
)
from gateway_api.native.session_keeping import charge, keep_part, keep_turn
from gateway_api.native.session_reply import Listener, answer_of
from gateway_api.native.session_telling import told_to, with_summary
from gateway_api.native.session_turn import turn_of
from gateway_api.openai.chat import ChunkEncoder, told_in_band
from gateway_api.openai.schema import CHAT_REQUEST, CHAT_RESPONSES
from gateway_api.own import OwnView, not_found
from gateway_api.resources import http_client, journal
from keys.caller import Caller
from providers.routing import Plan
from sessions_app import transcripts
from sessions_app.ids import Unknown
from sessions_app.session_rows import Session, SessionMessage, Truncation
from sessions_app.transcripts import Said, Transcript
from sessions_app.turns import Place

MAX_SUMMARIES = 8
"""Made in one turn: each is a request of its own."""
_OF_THE_SESSION = ("truncation", "session_id")


class SessionChatView(OwnView):
    """A chat whose messages are added to the session's, and whose answer is too."""

    @extend_schema(
        operation_id="chat_in_session",
        summary="The next turn of a session",
        description="A chat completion request; its `messages` follow those of the session. Turns "
        "of one session wait for each other. A turn that fails leaves nothing behind.",
        request=CHAT_REQUEST,
        examples=request_examples.TURN,
        responses=CHAT_RESPONSES,
        tags=schema.TAG,
    )
    async def post(self, request: Request, session_id: str) -> AnyAnswer:
        http_request: Any = request._request
        session = await self.own(transcripts.find, session_id)
        asked = await _read(request, session, self.caller)
        turn = SessionTurn(
            self.caller,
            session,
            asked,
            http_request.request_id,
            http_request.started,
            http_request.traceparent,
        )
        if asked.body.get("stream"):
            return await turn.stream()
        return await turn.complete()


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn as it was asked for: the caller's own messages, and the request without the session's
    history."""

    messages: list[dict[str, Any]]
    body: dict[str, Any]
    truncation: str

    @property
    def answers_calls(self) -> bool:
        return bool(self.messages[0].get("role") == "tool")


async def _read(request: Request, session: Session, caller: Caller) -> Asked:
    """Raises InvalidRequest as a chat would, for a chat without the history."""
    raw = await with_definitions(await read_json_body(request), caller, form="chat")
    body = await parse_apart(raw, parse_object)
    truncation = body.pop("truncation", None) or session.truncation
    if truncation not in Truncation.values:
        raise InvalidRequest(
            f"'truncation' must be one of {', '.join(Truncation.values)}.",
            param="truncation",
            code="invalid_value",
        )
    settings = session.read_settings()
    if body.get("max_completion_tokens"):
        settings.pop("max_tokens", None)  # the same limit by its other name
    system_prompt = settings.pop("system_prompt", None)
    if settings.get("tools") and "tools" not in body:
        defined = await with_definitions(
            orjson.dumps({"tools": settings["tools"]}), caller, form="chat"
        )
        settings["tools"] = orjson.loads(defined)["tools"]
    merged = {**settings, **{name: body[name] for name in body if name not in _OF_THE_SESSION}}
    merged["model"] = merged.get("model") or public_model(session)
    await parse_apart(orjson.dumps(merged), parse_chat_request)
    if merged.get("n") not in (None, 1):
        raise InvalidRequest("'n' must be 1 in a session.", param="n", code="invalid_value")
    messages = merged["messages"]
    if system_prompt:
        merged["messages"] = [{"role": "system", "content": system_prompt}, *messages]
    return Asked(messages, merged, truncation)


@dataclass(slots=True)
class SessionTurn:
    """One turn from its place in the queue to what it leaves behind."""

    caller: Caller
    session: Session
    asked: Asked
    request_id: str
    started: float
    traceparent: str
    left_out: int = 0
    waited_s: float = 0.0

    async def complete(self) -> AnyAnswer:
        try:
            async with turn_of(self.caller.name, self.session.session_id) as place:
                exchange = await self._begin(place)
                try:
                    reply = await pipeline.complete(exchange)
                except BaseException:
                    await charge(exchange)
                    raise
                completion = orjson.loads(reply.body)
                answer = answer_of(
                    exchange,
                    completion["choices"][0]["message"],
                    between=completion.get("tool_messages") or (),
                )
                said = [*map(Said, self.asked.messages), *answer]
                await keep_turn(place, said, exchange)
        except Unknown as unknown:
            raise not_found(unknown) from None
        completion["session_id"] = self.session.session_id
        return Answer(orjson.dumps(completion), headers=self._headers(exchange))

    async def stream(self) -> AnyAnswer:
        pieces = self._pieces()
        try:
            exchange = await anext(pieces)
            first = await anext(pieces)
        except Unknown as unknown:
            raise not_found(unknown) from None
        assert isinstance(exchange, Exchange) and isinstance(first, bytes)
        return StreamAnswer(
            first,
            _bytes_of(pieces),
            headers=self._headers(exchange),
            keepalive=KEEPALIVE,
            ending=DONE,
            failure=told_in_band,
        )

    async def _pieces(self) -> AsyncGenerator[Exchange | bytes]:
        """The exchange, once it has begun, then the pieces of its answer. The turn is kept before
        the last of them is told, and what there is of it where it breaks off."""
        async with turn_of(self.caller.name, self.session.session_id) as place:
            exchange = await self._begin(place)
            yield exchange
            listener, marked = Listener(), _Marked(self.session.session_id, self.asked.body)
            whole = False
            try:
                async with aclosing(pipeline.stream(exchange)) as batches:
                    async for batch in batches:
                        listener.hear(batch)
                        if piece := marked.encode(batch):
                            yield piece
                whole = True
            finally:
                if not whole:
                    await self._keep_part(place, exchange, listener)
            said = [*map(Said, self.asked.messages), *listener.answer(exchange)]
            await keep_turn(place, said, exchange)

    async def _keep_part(self, place: Place, exchange: Exchange, listener: Listener) -> None:
        part = listener.part(exchange)
        if not part:
            await charge(exchange)
            return
        said = [*map(Said, self.asked.messages), *part]
        await keep_part(place, said, exchange)

    async def _begin(self, place: Place) -> Exchange:
        self.waited_s = place.waited_s
        plan = await plan_of(self.caller, self.asked.body["model"])
        history = await self._history(place, plan)
        self.left_out += history.left_out
        request = await self._request(plan, history.messages)
        return await pipeline.begin(self._call(request), http=http_client(), journal=journal())

    async def _request(self, plan: Plan, earlier: Sequence[SessionMessage]) -> ChatRequest:
        own = self.asked.body["messages"]
        at = len(own) - len(self.asked.messages)
        providers = {target.provider.name for target in plan.targets}
        told = told_to(providers, earlier, in_loop=self.asked.answers_calls)
        messages = with_summary([*own[:at], *told, *own[at:]])
        body = {**self.asked.body, "messages": messages}
        return await parse_apart(orjson.dumps(body), parse_chat_request)

    async def _history(self, place: Place, plan: Plan) -> Transcript:
        room = room_for(plan, self.asked.body)
        policy, unfinished = self.asked.truncation, self.asked.answers_calls
        count = partial(self._count, plan)
        if policy == Truncation.SUMMARISE and room is not None:
            await self._sum_up(place, room, count)
        return await read_history(place, policy, room, unfinished=unfinished, count=count)

    async def _count(self, plan: Plan, earlier: Sequence[SessionMessage]) -> int | None:
        request = await self._request(plan, earlier)
        asked = time.perf_counter()
        counted = await count_prompt(plan, request)
        self.waited_s += time.perf_counter() - asked
        return counted

    async def _sum_up(self, place: Place, room: Room, count: Count) -> None:
        """Has the oldest turns summed up until the rest fits, or nothing is left to sum up."""
        for _ in range(MAX_SUMMARIES):
            if await fits(place, room, count):
                return
            asked = time.perf_counter()
            try:
                self.left_out += await summarise(
                    self._call, place, self.asked.body["model"], caller=self.caller
                )
            except Conflict:
                return
            self.waited_s += time.perf_counter() - asked

    def _call(self, request: ChatRequest, endpoint: str = "sessions.chat") -> Call:
        return Call(
            caller=self.caller,
            request=request,
            request_id=self.request_id,
            wire="openai",
            endpoint=endpoint,
            started=self.started,
            traceparent=self.traceparent,
            session_id=self.session.session_id,
            waited_s=self.waited_s,
        )

    def _headers(self, exchange: Exchange) -> list[tuple[str, str]]:
        headers = exchange.headers()
        if self.left_out:
            headers.append(("x-gateway-truncated", str(self.left_out)))
        return headers


async def _bytes_of(pieces: AsyncGenerator[Exchange | bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        async for piece in pieces:
            assert isinstance(piece, bytes), "the exchange came first"
            yield piece


class _Marked:
    """Chunks with the session's id, passed on or made."""

    def __init__(self, session_id: str, body: dict[str, Any]) -> None:
        self._mark = b'data: {"session_id":' + orjson.dumps(session_id) + b","
        options = body.get("stream_options") or {}
        self._encoder = ChunkEncoder(wants_usage=options.get("include_usage") is True)

    def encode(self, batch: Batch) -> bytes:
        raw = batch.wire if batch.wire is not None else self._encoder.encode(batch)
        # An event's data has no line break in it, so this stands at the beginning of each only.
        return b"\n\n".join(map(self._marked, raw.split(b"\n\n")))

    def _marked(self, event: bytes) -> bytes:
        if not event.startswith(b"data: {"):
            return event
        return self._mark + event[len(b"data: {") :]
