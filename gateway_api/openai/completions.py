"""`POST /v1/completions`: legacy text completions."""

from __future__ import annotations

import time
from typing import Any

import orjson
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.parsing import parse_text_request
from chat.sse import encode_event
from chat.text_completions import new_text_id, text_chunk
from chat.types import Batch
from gateway_api import pipeline
from gateway_api.answers import Answer, AnyAnswer
from gateway_api.async_view import AsyncAPIView, read_parsed
from gateway_api.exchange import Call
from gateway_api.openai.chat import stream_answer
from gateway_api.openai.schema import TEXT_REQUEST, TEXT_RESPONSES
from gateway_api.resources import http_client, journal


class CompletionsView(AsyncAPIView):
    """Text that carries a prompt on, from any provider; over chat where it has nothing else."""

    @extend_schema(
        operation_id="createCompletion",
        summary="Create a text completion",
        request=TEXT_REQUEST,
        responses=TEXT_RESPONSES,
        tags=["OpenAI wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        http_request: Any = request._request
        asked = await read_parsed(request, parse_text_request)
        call = Call(
            caller=self.caller,
            request=asked,
            request_id=http_request.request_id,
            wire="openai",
            endpoint="completions",
            started=http_request.started,
            traceparent=http_request.traceparent,
        )
        exchange = await pipeline.begin(call, http=http_client(), journal=journal())
        if asked.stream:
            batches = pipeline.batches(exchange, lambda adapter: adapter.stream_text(asked))
            encoder = _TextEncoder(wants_usage=asked.wants_usage)
            return await stream_answer(exchange, batches, encoder.encode)
        reply = await pipeline.answer(exchange, lambda adapter: adapter.complete_text(asked))
        return Answer(reply.body, headers=exchange.headers())


class _TextEncoder:
    """Chunks of upstreams that do not write text completions themselves."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._head = {"id": new_text_id(), "created": int(time.time()), "model": ""}

    def encode(self, batch: Batch) -> bytes:
        events = []
        for chunk in batch.chunks:
            self._head["model"] = self._head["model"] or chunk.model
            fields = text_chunk(chunk, wants_usage=self._wants_usage)
            if fields is not None:
                events.append(encode_event(orjson.dumps({**self._head, **fields})))
        return b"".join(events)
