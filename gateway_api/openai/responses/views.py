"""`POST /v1/responses`, and what can be done with a response that was stored."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import InvalidRequest
from chat.sse import KEEPALIVE
from gateway_api import pipeline, request_examples
from gateway_api.answers import Answer, AnyAnswer, Headers, StreamAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.exchange import Call
from gateway_api.named_tools import read_with_tools
from gateway_api.openai.responses import background, schema
from gateway_api.openai.responses.background import BackgroundTurn
from gateway_api.openai.responses.context import load_context
from gateway_api.openai.responses.following import follow, read_starting_after
from gateway_api.openai.responses.pages import page_of
from gateway_api.openai.responses.params import parse_responses_request
from gateway_api.openai.responses.prepared import Prepared, forget_upstream, prepare
from gateway_api.openai.responses.turn import Turn
from gateway_api.own import OwnView, deleted
from gateway_api.resources import http_client, journal
from sessions_app.events import has_stream
from sessions_app.responses import EVENTS_KEPT_HOURS, cancel, find, forget

TAG = ["OpenAI wire"]


class ResponsesView(AsyncAPIView):
    """A response of any model of any provider, in the words of OpenAI's Responses API."""

    @extend_schema(
        operation_id="createResponse",
        summary="Create a response",
        request=schema.REQUEST,
        examples=request_examples.RESPONSE,
        responses=schema.CREATED,
        tags=TAG,
    )
    async def post(self, request: Request) -> AnyAnswer:
        asked = await read_with_tools(
            request, parse_responses_request, caller=self.caller, form="responses"
        )
        prepared = prepare(asked, await load_context(self.caller.name, asked))
        turn = await self._begin(request, prepared)
        if isinstance(turn, BackgroundTurn):
            queued, headers = await background.start(turn), turn.exchange.headers()
            if not asked.params.stream:
                return json_answer(queued, headers=headers)
            return streamed(self.caller.name, turn.response_id, after=-1, headers=headers)
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
            traceparent=http_request.traceparent,
        )
        exchange = await pipeline.begin(
            call, http=http_client(), journal=journal(), narrow=prepared.narrow
        )
        make = BackgroundTurn if prepared.asked.params.background else Turn
        return make(prepared, exchange)


class StoredResponseView(OwnView):
    """One stored response of the caller's own."""

    @extend_schema(
        operation_id="getResponse",
        summary="A stored response",
        parameters=schema.STREAM_PARAMETERS,
        responses=schema.FOUND,
        tags=TAG,
    )
    async def get(self, request: Request, response_id: str) -> AnyAnswer:
        wanted = request.query_params.get("stream", "").lower() == "true"
        if wanted and request.method != "HEAD":  # whose answer must not wait for an end
            return await self._stream(response_id, read_starting_after(request.query_params))
        return json_answer((await self.own(find, response_id)).read_body())

    async def _stream(self, response_id: str, after: int) -> AnyAnswer:
        if not await self.own(has_stream, response_id):
            raise InvalidRequest(
                "Only a background response that was made with 'stream' can be streamed again, for "
                f"{EVENTS_KEPT_HOURS} hours: leave out 'stream'.",
                param="stream",
                code="unsupported_value",
            )
        return streamed(self.caller.name, response_id, after=after)

    @extend_schema(
        operation_id="deleteResponse",
        summary="Delete a stored response",
        responses=schema.DELETED,
        tags=TAG,
    )
    async def delete(self, request: Request, response_id: str) -> AnyAnswer:
        await forget_upstream(await self.own(find, response_id), http_client())
        await self.own(forget, response_id)
        background.stop(self.caller.name, response_id)
        return deleted(response_id, "response")


class InputItemsView(OwnView):
    """What a stored response was asked with."""

    @extend_schema(
        operation_id="listInputItems",
        summary="Input items of a stored response",
        parameters=schema.ITEM_PARAMETERS,
        responses=schema.ITEMS,
        tags=TAG,
    )
    async def get(self, request: Request, response_id: str) -> AnyAnswer:
        row = await self.own(find, response_id)
        return json_answer(page_of(row.read_input(), request.query_params))


class CancelResponseView(OwnView):
    """Ends a background response that is still being made."""

    @extend_schema(
        operation_id="cancelResponse",
        summary="Cancel a background response",
        request=None,
        responses=schema.CANCELLED,
        tags=TAG,
    )
    async def post(self, request: Request, response_id: str) -> AnyAnswer:
        if not (await self.own(find, response_id)).background:
            raise InvalidRequest("Only background responses can be cancelled.", param="response_id")
        row = await self.own(cancel, response_id)
        background.stop(self.caller.name, response_id)
        return json_answer(row.read_body())


def streamed(owner: str, response_id: str, *, after: int, headers: Headers = ()) -> StreamAnswer:
    """The stream of a background response. Whoever leaves it leaves the response alone."""
    recording = background.recording_of(owner, response_id)
    pieces = follow(owner, response_id, after=after, recording=recording)
    # The next event may be long in coming, and the caller is to know that it is awaited.
    return StreamAnswer(KEEPALIVE, pieces, headers=headers, keepalive=KEEPALIVE)
