"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.requests import ChatRequest
from chat.sse import encode_event
from chat.types import Batch, Reply
from gateway_api import pipeline, request_examples
from gateway_api.answers import Answer, AnyAnswer, Headers, StreamAnswer, json_answer
from gateway_api.anthropic.errors import AnthropicView, error_body
from gateway_api.anthropic.estimate import estimate_tokens
from gateway_api.anthropic.events import PING, EventEncoder
from gateway_api.anthropic.message import message_of
from gateway_api.anthropic.schema import (
    COUNT_REQUEST,
    COUNT_RESPONSES,
    MESSAGES_REQUEST,
    MESSAGES_RESPONSES,
)
from gateway_api.anthropic.translation import Translated, parse_messages, parse_prompt
from gateway_api.errors import as_gateway_error
from gateway_api.exchange import Call, Exchange
from gateway_api.named_tools import read_with_tools
from gateway_api.not_found import UnknownAddressView
from gateway_api.resources import http_client, journal

_WIRE_HEADERS = {
    "HTTP_ANTHROPIC_VERSION": "anthropic-version",
    "HTTP_ANTHROPIC_BETA": "anthropic-beta",
}


class MessagesView(AnthropicView):
    """Chat with any model of any provider, in Anthropic's words."""

    @extend_schema(
        operation_id="createMessage",
        summary="Create a message",
        request=MESSAGES_REQUEST,
        examples=request_examples.MESSAGE,
        responses=MESSAGES_RESPONSES,
        tags=["Anthropic wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        parse = partial(parse_messages, headers=wire_headers(request))
        translated = await read_with_tools(request, parse, caller=self.caller, form="anthropic")
        call = _call(self, translated.request, "messages")
        exchange = await pipeline.begin(call, http=http_client(), journal=journal())
        if translated.request.stream:
            return await _streamed(exchange, translated)
        reply = await pipeline.complete(exchange, partial(_encode, exchange, translated))
        is_native = reply.wire == "anthropic"
        return Answer(reply.body, headers=_headers(exchange, None if is_native else translated))


class CountTokensView(AnthropicView):
    """The tokens of a prompt: counted by the upstream where it can, else estimated."""

    @extend_schema(
        operation_id="countMessageTokens",
        summary="Count the tokens of a message",
        request=COUNT_REQUEST,
        responses=COUNT_RESPONSES,
        tags=["Anthropic wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        parse = partial(parse_prompt, headers=wire_headers(request))
        translated = await read_with_tools(request, parse, caller=self.caller, form="anthropic")
        call = _call(self, translated.request, "messages.count_tokens")
        counted, exchange = await pipeline.count_tokens(call, http=http_client(), journal=journal())
        headers = _headers(exchange)
        if counted is not None:
            return Answer(counted.body, headers=headers)
        estimated = estimate_tokens(translated.request.body)
        headers = [*headers, ("x-gateway-estimated", "true")]
        return json_answer({"input_tokens": estimated}, headers=headers)


@extend_schema(exclude=True)
class UnknownMessagesAddressView(AnthropicView, UnknownAddressView):
    """404 below `/v1/messages`."""


def wire_headers(request: Request) -> dict[str, str]:
    """The headers that are part of this wire: an upstream that speaks it gets them too."""
    meta = request._request.META
    return {name: meta[key] for key, name in _WIRE_HEADERS.items() if key in meta}


def _call(view: AnthropicView, request: ChatRequest, endpoint: str) -> Call:
    http_request: Any = view.request._request
    return Call(
        caller=view.caller,
        request=request,
        request_id=view.request_id,
        wire="anthropic",
        endpoint=endpoint,
        started=http_request.started,
        traceparent=http_request.traceparent,
    )


def _headers(exchange: Exchange, translated: Translated | None = None) -> Headers:
    """`translated` where the upstream got the translation: then some fields did not reach it."""
    if translated is not None:
        translated.request.dropped.update(translated.dropped)
    return [("request-id", exchange.call.request_id), *exchange.headers()]


def _stops(translated: Translated) -> list[str]:
    stops = translated.request.params.stop
    return stops if isinstance(stops, list) else []


def _encode(exchange: Exchange, translated: Translated, reply: Reply) -> bytes:
    if reply.wire == "anthropic":
        return reply.body
    model = exchange.dispatch.target.model
    return message_of(reply, exchange.counts(), model=model, stops=_stops(translated))


async def _streamed(exchange: Exchange, translated: Translated) -> StreamAnswer:
    """Events to `message_stop`, or to one `error` event and no `message_stop` when the stream fails
    after the first (M26). A failure before it is raised (M25)."""
    events = _Events(exchange, translated)
    pieces = pipeline.encoded(exchange, events)
    first = await anext(pieces)
    return StreamAnswer(
        first,
        pieces,
        headers=_headers(exchange, None if events.are_native else translated),
        keepalive=PING,
        failure=partial(_told_in_band, exchange.call.request_id),
    )


class _Events:
    """The upstream's own events where it speaks this wire, else ours."""

    def __init__(self, exchange: Exchange, translated: Translated) -> None:
        self.are_native = False
        self._exchange = exchange
        self._stops = _stops(translated)
        self._encoder: EventEncoder | None = None

    def encode(self, batch: Batch) -> bytes:
        if batch.wire is not None:
            self.are_native = True
            return batch.wire
        if self._encoder is None:
            model = self._exchange.dispatch.target.model
            self._encoder = EventEncoder(model=model, stops=self._stops)
        return self._encoder.feed(batch)

    def end(self) -> bytes:
        return self._encoder.finish(self._exchange.counts()) if self._encoder is not None else b""


def _told_in_band(request_id: str, error: Exception) -> bytes:
    body = error_body(as_gateway_error(error), request_id)
    return encode_event(orjson.dumps(body), "error")
