"""`POST /v1/embeddings`."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.parsing import parse_embeddings_request
from gateway_api import pipeline
from gateway_api.answers import Answer, AnyAnswer
from gateway_api.async_view import AsyncAPIView, read_parsed
from gateway_api.exchange import Call
from gateway_api.openai.schema import EMBEDDINGS_REQUEST, EMBEDDINGS_RESPONSES
from gateway_api.resources import http_client, journal


class EmbeddingsView(AsyncAPIView):
    """Vectors of texts or of tokens, from any provider that has them."""

    @extend_schema(
        operation_id="createEmbeddings",
        summary="Create embeddings",
        request=EMBEDDINGS_REQUEST,
        responses=EMBEDDINGS_RESPONSES,
        tags=["OpenAI wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        http_request: Any = request._request
        asked = await read_parsed(request, parse_embeddings_request)
        call = Call(
            caller=self.caller,
            request=asked,
            request_id=http_request.request_id,
            wire="openai",
            endpoint="embeddings",
            started=http_request.started,
            traceparent=http_request.traceparent,
        )
        exchange = await pipeline.begin(call, http=http_client(), journal=journal())
        reply = await pipeline.answer(exchange, lambda adapter: adapter.embed(asked))
        return Answer(reply.body, headers=exchange.headers())
