"""`POST /api/embed` and its elder, `POST /api/embeddings`."""

from __future__ import annotations

import time
from typing import Any

import orjson
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.parsing import convert
from chat.requests import EmbeddingsParams, EmbeddingsRequest
from chat.types import Reply
from gateway_api import pipeline
from gateway_api.answers import Answer, AnyAnswer
from gateway_api.async_view import read_json_body
from gateway_api.exchange import Call, Exchange
from gateway_api.ollama import schema
from gateway_api.ollama.encoding import nanoseconds
from gateway_api.ollama.fields import EmbeddingsFields, EmbedFields
from gateway_api.ollama.requests import parse_fields
from gateway_api.ollama.view import OllamaView, public_name
from gateway_api.resources import http_client, journal

_MAPPED = frozenset({"model", "input", "dimensions"})


class _EmbeddingView(OllamaView):
    async def _embed(
        self, request: Request, native: dict[str, Any], *, size: int
    ) -> tuple[Exchange, Reply]:
        """Asks for what `native`, a body of `/api/embed`, wants."""
        http_request: Any = request._request
        asked = _request(native, size)
        asked.params.model = await public_name(asked.params.model)
        call = Call(
            caller=self.caller,
            request=asked,
            request_id=http_request.request_id,
            wire="ollama",
            endpoint="embed",
            started=http_request.started,
            traceparent=http_request.traceparent,
        )
        exchange = await pipeline.begin(call, http=http_client(), journal=journal())
        reply = await pipeline.answer(exchange, lambda adapter: adapter.embed(asked))
        if reply.wire != "ollama":
            lost = native.keys() - _MAPPED
            asked.dropped.update(name for name in lost if native[name] is not None)
        return exchange, reply


class EmbedView(_EmbeddingView):
    """Vectors of texts, from any provider that has them."""

    @extend_schema(
        operation_id="ollamaEmbed",
        summary="Create embeddings",
        request=schema.EMBED_REQUEST,
        responses=schema.EMBED_RESPONSES,
        tags=["Ollama wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        raw = await read_json_body(request)
        native, _ = parse_fields(raw, EmbedFields)
        exchange, reply = await self._embed(request, native, size=len(raw))
        body = reply.body if reply.wire == "ollama" else _told(exchange, reply)
        return Answer(body, headers=exchange.headers())


class EmbeddingsView(_EmbeddingView):
    """The vector of one text, as clients before 0.3 ask for it."""

    @extend_schema(
        operation_id="ollamaEmbeddings",
        summary="Create one embedding",
        request=schema.EMBEDDINGS_REQUEST,
        responses=schema.EMBEDDINGS_RESPONSES,
        tags=["Ollama wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        raw = await read_json_body(request)
        native, fields = parse_fields(raw, EmbeddingsFields)
        native = {**native, "input": fields.prompt}
        del native["prompt"]
        exchange, reply = await self._embed(request, native, size=len(raw))
        vector = _vectors(reply)[0]
        return Answer(orjson.dumps({"embedding": vector}), headers=exchange.headers())


def _request(native: dict[str, Any], size: int) -> EmbeddingsRequest:
    body = {name: native[name] for name in _MAPPED if native.get(name) is not None}
    body["encoding_format"] = "float"
    return EmbeddingsRequest(
        params=convert(body, EmbeddingsParams), body=body, size=size, wire="ollama", native=native
    )


def _told(exchange: Exchange, reply: Reply) -> bytes:
    spent = time.perf_counter() - exchange.call.started
    told: dict[str, Any] = {
        "model": exchange.plan.model,
        "embeddings": _vectors(reply),
        "total_duration": nanoseconds(spent),
        "load_duration": 0,
    }
    if reply.usage is not None:
        told["prompt_eval_count"] = reply.usage.prompt_tokens
    return orjson.dumps(told)


def _vectors(reply: Reply) -> list[Any]:
    answer = orjson.loads(reply.body)
    if reply.wire == "ollama":
        return list(answer["embeddings"])
    return [each["embedding"] for each in answer["data"]]
