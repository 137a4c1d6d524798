"""One turn: from the exchange with an upstream to the Response object, stored before it is told."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import orjson
from django.db import DatabaseError, InterfaceError

from chat.errors import GatewayError
from chat.folding import unfold
from chat.responses import ResponsesBatch
from chat.sse import encode_event
from chat.types import Reply
from gateway_api import pipeline
from gateway_api.errors import as_gateway_error
from gateway_api.exchange import Exchange
from gateway_api.openai.responses.builder import Event, ResponseBuilder
from gateway_api.openai.responses.items import made_by_provider, new_id, with_ids
from gateway_api.openai.responses.prepared import Prepared
from gateway_api.openai.responses.resource import failed, response_object
from gateway_api.openai.responses.to_chat import left_out
from providers.database import in_database
from sessions_app.responses import Kept, keep, note_items

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Turn:
    """A request on its way, and the id its response will have if it is made here."""

    prepared: Prepared
    exchange: Exchange
    response_id: str = field(default_factory=lambda: new_id("resp"))

    @property
    def owner(self) -> str:
        return self.exchange.call.caller.name

    def empty_response(self, status: str) -> dict[str, Any]:
        return response_object(
            self.prepared.asked.params,
            response_id=self.response_id,
            model=self.exchange.dispatch.target.model,
            status=status,
        )

    # --- whole answers ----------------------------------------------------------------------------

    async def complete(self) -> bytes:
        """The Response object, in the upstream's own bytes where they are right. Raises
        GatewayError."""
        reply = await pipeline.complete(self.exchange)
        body = self.read(reply)
        await self.keep(body, native=reply.wire == "responses")
        if reply.wire == "responses" and not self._amendments():
            return reply.body
        return orjson.dumps(body)

    def read(self, reply: Reply) -> dict[str, Any]:
        """An upstream's answer as a Response object."""
        answer: dict[str, Any] = orjson.loads(reply.body)
        if reply.wire == "responses":
            return answer | self._amendments()
        self.tell_left_out()
        builder = ResponseBuilder(self.empty_response("in_progress"))
        builder.add(unfold(answer))
        builder.usage = reply.usage
        builder.finish()
        return builder.response

    def tell_left_out(self) -> None:
        """Notes what the translation did not carry; the caller is told in a header."""
        asked = self.prepared.asked
        self.prepared.request.dropped |= left_out(asked.params, asked.body)

    def _amendments(self) -> dict[str, Any]:
        """What an upstream cannot know of a response: the conversation, and the response before
        it, where the history was given to it in full."""
        params, pinned = self.prepared.asked.params, self.prepared.pinned
        amendments: dict[str, Any] = {}
        if params.conversation_id and not pinned:
            amendments["conversation"] = {"id": params.conversation_id}
        known_as = self.prepared.context.kept_as if pinned else ""
        if params.previous_response_id and params.previous_response_id != known_as:
            amendments["previous_response_id"] = params.previous_response_id
        return amendments

    # --- streams ----------------------------------------------------------------------------------

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The typed events. A failure before the first is raised (M25); one after it is told by
        `response.failed` or `error`, and nothing ends as completed that was not (M26)."""
        told = _Telling(self)
        batches = pipeline.stream(self.exchange)
        try:
            async for batch in batches:
                if isinstance(batch, ResponsesBatch):
                    if batch.response is not None and not batch.failed:
                        await self.keep(batch.response | self._amendments(), native=True)
                    piece = told.native(batch)
                else:
                    piece = told.translated(batch.chunks)
                if piece:
                    yield piece
            if told.builder is not None:
                last = told.end()
                await self.keep(told.builder.response, native=False)
                yield last
        except Exception as error:  # an edge: the stream has to end in words its reader knows
            if not told.anything:
                raise
            if not told.failure:
                yield await told.fail(as_gateway_error(error))
        finally:
            await batches.aclose()

    # --- storing ----------------------------------------------------------------------------------

    def kept(self, body: dict[str, Any], *, native: bool) -> Kept:
        """The response as it is to be stored."""
        params = self.prepared.asked.params
        upstream_id = str(body.get("id") or "") if native else ""
        return Kept(
            owner=self.owner,
            response_id=upstream_id or self.response_id,
            model=self.exchange.plan.model,
            provider=self.exchange.dispatch.target.provider.name,
            upstream_id=upstream_id if body.get("store") is not False else "",
            native=native,
            previous_response_id=params.previous_response_id or "",
            conversation=params.conversation_id,
            input=with_ids(self.prepared.context.items),
            body=body,
        )

    async def keep(self, body: dict[str, Any], *, native: bool) -> None:
        """Stores a response where that is wanted. One that cannot be stored is answered all the
        same: it has been paid for."""
        try:
            if self.prepared.asked.params.stored:
                await in_database(keep, self.kept(body, native=native))
            elif native:
                await self._note_makers(body)
        except (DatabaseError, InterfaceError) as error:
            logger.error("A response could not be stored: %s", error)
            self.prepared.request.dropped.add("store")

    async def _note_makers(self, body: dict[str, Any]) -> None:
        items = [item for item in body.get("output") or () if isinstance(item, dict)]
        if made := set(made_by_provider(items)):
            await in_database(
                note_items,
                self.owner,
                [item for item in items if item.get("id") in made],
                provider=self.exchange.dispatch.target.provider.name,
            )


class _Telling:
    """The events of one stream, in order and numbered."""

    def __init__(self, turn: Turn) -> None:
        self.builder: ResponseBuilder | None = None
        self.anything = False
        self.failure = False
        self._turn = turn
        self._number = 0

    def native(self, batch: ResponsesBatch) -> bytes:
        self.anything = True
        self.failure = batch.failed
        self._number = batch.sequence_number + 1
        wire, amendments = batch.wire or b"", self._turn._amendments()
        return _amended(wire, amendments) if amendments else wire

    def translated(self, chunks: list[Any]) -> bytes:
        if self.builder is None:
            self._turn.tell_left_out()
            self.builder = ResponseBuilder(self._turn.empty_response("in_progress"))
        self.anything = True
        return self._encode(self.builder.add(chunks))

    def end(self) -> bytes:
        assert self.builder is not None
        return self._encode(self.builder.finish())

    async def fail(self, error: GatewayError) -> bytes:
        self.failure = True
        if self.builder is None:
            told = {"type": "error", "code": error.code, "message": error.message}
            return self._encode([{**told, "param": error.param}])
        response = failed(self.builder.break_off(), error)
        await self._turn.keep(response, native=False)
        return self._encode([{"type": "response.failed", "response": response}])

    def _encode(self, events: list[Event]) -> bytes:
        pieces = []
        for event in events:
            event["sequence_number"] = self._number
            self._number += 1
            pieces.append(encode_event(orjson.dumps(event), event["type"]))
        return b"".join(pieces)


def _amended(wire: bytes, amendments: dict[str, Any]) -> bytes:
    """Canonical events with some fields of the Response objects in them set."""
    events = []
    for event in wire.removesuffix(b"\n\n").split(b"\n\n"):
        head, mark, data = event.rpartition(b"data: ")
        if b'"response"' in data:
            fields = orjson.loads(data)
            if isinstance(fields.get("response"), dict):
                fields["response"] |= amendments
                data = orjson.dumps(fields)
        events.append(head + mark + data + b"\n\n")
    return b"".join(events)
