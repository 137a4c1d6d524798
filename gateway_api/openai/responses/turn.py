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
from chat.types import Reply
from gateway_api import pipeline
from gateway_api.errors import as_gateway_error
from gateway_api.exchange import Exchange
from gateway_api.insisting import insist
from gateway_api.openai.responses.builder import ResponseBuilder
from gateway_api.openai.responses.items import made_by_provider, with_ids
from gateway_api.openai.responses.prepared import Prepared
from gateway_api.openai.responses.resource import failed, response_object
from gateway_api.openai.responses.telling import Telling
from gateway_api.openai.responses.to_chat import left_out
from providers.database import in_database
from sessions_app.ids import new_id
from sessions_app.responses import Kept, keep, note_items

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Turn:
    """A request on its way, and the id its response will have if it is made here."""

    prepared: Prepared
    exchange: Exchange
    response_id: str = field(default_factory=lambda: new_id("resp"))
    upstream_id: str = ""
    """What the provider calls it, once its own Responses API has said so."""
    unstored: bool = False
    """It was to be stored, and the database stayed away."""

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
        return orjson.dumps(body | self._loss())

    def read(self, reply: Reply) -> dict[str, Any]:
        """An upstream's answer as a Response object."""
        answer: dict[str, Any] = orjson.loads(reply.body)
        if reply.wire == "responses":
            return self._told(answer)
        builder = self._begin()
        builder.add(unfold(answer))
        builder.usage = reply.usage
        builder.finish()
        return builder.response

    def _begin(self) -> ResponseBuilder:
        """A translated answer; what the translation did not carry is told in a header."""
        asked = self.prepared.asked
        self.prepared.request.dropped |= left_out(asked.params, asked.body)
        return ResponseBuilder(self.empty_response("in_progress"))

    def _told(self, answer: dict[str, Any]) -> dict[str, Any]:
        """A provider's Response object as its caller is told it."""
        self.upstream_id = str(answer.get("id") or "")
        return answer | self._amendments()

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
        return amendments | self._loss()

    def _loss(self) -> dict[str, Any]:
        """What a caller can rely on no more where the response could not be stored."""
        if not self.unstored:
            return {}
        named = self.prepared.asked.params.conversation_id and not self.prepared.pinned
        return {"store": False, **({"conversation": None} if named else {})}

    # --- streams ----------------------------------------------------------------------------------

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The typed events. A failure before the first is raised (M25); one after it is told by
        `response.failed` or `error`, and nothing ends as completed that was not (M26)."""
        told = Telling()
        batches = pipeline.stream(self.exchange)
        try:
            async for batch in batches:
                if isinstance(batch, ResponsesBatch):
                    if batch.response is not None:
                        await self.keep(self._told(batch.response), native=True)
                    piece = told.native(batch, self._amendments())
                else:
                    piece = told.translated(told.builder or self._begin(), batch.chunks)
                if piece:
                    yield piece
            if told.builder is not None:
                events = told.builder.finish()
                await self.keep(told.builder.response, native=False)
                told.builder.response |= self._loss()
                yield told.encode(events)
        except Exception as error:  # an edge: the stream has to end in words its reader knows
            if not told.anything:
                raise
            if not told.failure:
                yield await self._fail(told, as_gateway_error(error))
        finally:
            await batches.aclose()

    async def _fail(self, told: Telling, error: GatewayError) -> bytes:
        if told.builder is None:
            return told.error(error)
        response = failed(told.builder.break_off(), error)
        await self.keep(response, native=False)
        return told.encode([{"type": "response.failed", "response": response}])

    # --- storing ----------------------------------------------------------------------------------

    def kept(self, body: dict[str, Any], *, native: bool) -> Kept:
        """The response as it is to be stored."""
        params = self.prepared.asked.params
        upstream_id = self.upstream_id if native else ""
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
        same, as one that was not: it has been paid for."""
        try:
            if self.prepared.asked.params.stored:
                kept = self.kept(body, native=native)
                await insist(lambda: in_database(keep, kept))
            elif native:
                await self._note_makers(body)
        except (DatabaseError, InterfaceError) as error:
            logger.error("A response could not be stored: %s", error)
            self.prepared.request.dropped.add("store")
            self.unstored = self.prepared.asked.params.stored

    async def _note_makers(self, body: dict[str, Any]) -> None:
        items = [item for item in body.get("output") or () if isinstance(item, dict)]
        if made := set(made_by_provider(items)):
            await in_database(
                note_items,
                self.owner,
                [item for item in items if item.get("id") in made],
                provider=self.exchange.dispatch.target.provider.name,
            )
