"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import orjson
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.parsing import parse_chat_request
from chat.sse import DONE, KEEPALIVE, encode_event
from chat.types import Batch, ChatChunk, encode
from gateway_api import pipeline, request_examples
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer
from gateway_api.async_view import AsyncAPIView
from gateway_api.errors import as_gateway_error, openai_body
from gateway_api.exchange import Call, Exchange
from gateway_api.named_tools import read_with_tools
from gateway_api.openai.schema import CHAT_REQUEST, CHAT_RESPONSES
from gateway_api.resources import http_client, journal


class ChatCompletionsView(AsyncAPIView):
    """Chat with any model of any provider, in OpenAI's words."""

    @extend_schema(
        operation_id="createChatCompletion",
        summary="Create a chat completion",
        request=CHAT_REQUEST,
        examples=request_examples.CHAT,
        responses=CHAT_RESPONSES,
        tags=["OpenAI wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        http_request: Any = request._request
        chat_request = await read_with_tools(request, parse_chat_request, caller=self.caller)
        call = Call(
            caller=self.caller,
            request=chat_request,
            request_id=http_request.request_id,
            wire="openai",
            endpoint="chat.completions",
            started=http_request.started,
            traceparent=http_request.traceparent,
        )
        exchange = await pipeline.begin(call, http=http_client(), journal=journal())
        if chat_request.stream:
            encoder = ChunkEncoder(wants_usage=chat_request.wants_usage)
            return await stream_answer(exchange, pipeline.stream(exchange), encoder.encode)
        reply = await pipeline.complete(exchange)
        return Answer(reply.body, headers=exchange.headers())


async def stream_answer(
    exchange: Exchange, batches: AsyncGenerator[Batch], encode_batch: Callable[[Batch], bytes]
) -> StreamAnswer:
    """Chunks, then `[DONE]`, or one in-band error and no `[DONE]` when the stream fails after the
    first chunk (M26). A failure before it is raised (M25)."""
    pieces = _pieces(batches, encode_batch)
    first = await anext(pieces)
    return StreamAnswer(
        first,
        pieces,
        headers=exchange.headers(),
        keepalive=KEEPALIVE,
        ending=DONE,
        failure=told_in_band,
    )


async def _pieces(
    batches: AsyncGenerator[Batch], encode_batch: Callable[[Batch], bytes]
) -> AsyncGenerator[bytes]:
    try:
        async for batch in batches:
            piece = batch.wire if batch.wire is not None else encode_batch(batch)
            if piece:
                yield piece
    finally:
        await batches.aclose()


def told_in_band(error: Exception) -> bytes:
    return encode_event(orjson.dumps(openai_body(as_gateway_error(error))))


class ChunkEncoder:
    """Chunks of upstreams that speak another wire, with what the OpenAI wire wants of every chunk:
    one id, one time, one model."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._first: ChatChunk | None = None

    def encode(self, batch: Batch) -> bytes:
        return b"".join(
            encode_event(self._one(chunk))
            for chunk in batch.chunks
            if chunk.choices or self._wants_usage
        )

    def _one(self, chunk: ChatChunk) -> bytes:
        first = self._first = self._first or chunk
        chunk.id, chunk.created, chunk.model = first.id, first.created, first.model
        chunk.object = "chat.completion.chunk"
        chunk.created = chunk.created or int(time.time())
        if not self._wants_usage:
            chunk.usage = None
        return encode(chunk)
