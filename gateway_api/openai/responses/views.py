"""`POST /v1/responses`, and what can be done with a response that was stored."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import InvalidRequest, NotFound
from chat.sse import KEEPALIVE
from gateway_api import pipeline
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer, json_answer
from gateway_api.async_view import AsyncAPIView, read_parsed
from gateway_api.exchange import Call
from gateway_api.openai.responses import background, schema
from gateway_api.openai.responses.context import load_context
from gateway_api.openai.responses.pages import page_of
from gateway_api.openai.responses.params import parse_responses_request
from gateway_api.openai.responses.prepared import Prepared, forget_upstream, prepare
from gateway_api.openai.responses.turn import Turn
from gateway_api.resources import http_client, journal
from providers.database import in_database
from sessions_app.models import StoredResponse
from sessions_app.responses import UnknownResponse, cancel, find, forget

TAG = ["OpenAI wire"]


class ResponsesView(AsyncAPIView):
    """A response of any model of any provider, in the words of OpenAI's Responses API."""

    @extend_schema(
        operation_id="createResponse",
        summary="Create a response",
        request=schema.REQUEST,
        responses=schema.CREATED,
        tags=TAG,
    )
    async def post(self, request: Request) -> AnyAnswer:
        asked = await read_parsed(request, parse_responses_request)
        prepared = prepare(asked, await load_context(self.caller.name, asked))
        turn = await self._begin(request, prepared)
        if asked.params.background:
            return json_answer(await background.start(turn), headers=turn.exchange.headers())
        if asked.params.stream:
            pieces = turn.pieces()
            first = await anext(pieces)
            headers = turn.exchange.headers()
            return StreamAnswer(first, pieces, headers=headers, keepalive=KEEPALIVE)
        body = await turn.complete()
        return Answer(body, headers=turn.exchange.headers())

    async def _begin(self, request: Request, prepared: Prepared) -> Turn:
        http_request: Any = request._request
        call = Call(
            caller=self.caller,
            request=prepared.request,
            request_id=http_request.request_id,
            wire="openai",
            endpoint="responses",
            started=http_request.started,
        )
        exchange = await pipeline.begin(
            call, http=http_client(), journal=journal(), narrow=prepared.narrow
        )
        return Turn(prepared, exchange)


class StoredResponseView(AsyncAPIView):
    """One stored response of the caller's own; another's does not exist."""

    @extend_schema(
        operation_id="getResponse", summary="A stored response", responses=schema.FOUND, tags=TAG
    )
    async def get(self, request: Request, response_id: str) -> AnyAnswer:
        if request.query_params.get("stream", "").lower() == "true":
            raise InvalidRequest(
                "A stored response is not streamed: leave out 'stream'.",
                param="stream",
                code="unsupported_value",
            )
        row = await find_own(self.caller.name, response_id)
        return json_answer(row.read_body())

    @extend_schema(
        operation_id="deleteResponse",
        summary="Delete a stored response",
        responses=schema.DELETED,
        tags=TAG,
    )
    async def delete(self, request: Request, response_id: str) -> AnyAnswer:
        row = await find_own(self.caller.name, response_id)
        await forget_upstream(row, http_client())
        try:
            await in_database(forget, self.caller.name, response_id)
        except UnknownResponse:
            raise not_found(response_id) from None
        background.stop(self.caller.name, response_id)
        return json_answer({"id": response_id, "object": "response", "deleted": True})


class InputItemsView(AsyncAPIView):
    """What a stored response was asked with."""

    @extend_schema(
        operation_id="listInputItems",
        summary="Input items of a stored response",
        parameters=schema.ITEM_PARAMETERS,
        responses=schema.ITEMS,
        tags=TAG,
    )
    async def get(self, request: Request, response_id: str) -> AnyAnswer:
        row = await find_own(self.caller.name, response_id)
        return json_answer(page_of(row.read_input(), request.query_params))


class CancelResponseView(AsyncAPIView):
    """Ends a background response that is still being made."""

    @extend_schema(
        operation_id="cancelResponse",
        summary="Cancel a background response",
        request=None,
        responses=schema.CANCELLED,
        tags=TAG,
    )
    async def post(self, request: Request, response_id: str) -> AnyAnswer:
        row = await find_own(self.caller.name, response_id)
        if not row.background:
            raise InvalidRequest("Only background responses can be cancelled.", param="response_id")
        try:
            row = await in_database(cancel, self.caller.name, response_id)
        except UnknownResponse:
            raise not_found(response_id) from None
        background.stop(self.caller.name, response_id)
        return json_answer(row.read_body())


async def find_own(owner: str, response_id: str) -> StoredResponse:
    """Raises NotFound, for another key's response as for one that never was."""
    try:
        return await in_database(find, owner, response_id)
    except UnknownResponse:
        raise not_found(response_id) from None


def not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:200]}' not found.", param="response_id")
