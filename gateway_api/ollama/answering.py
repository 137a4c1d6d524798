"""`POST /api/chat` and `POST /api/generate`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import orjson
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.types import Batch, Reply
from gateway_api import pipeline
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer
from gateway_api.async_view import read_parsed
from gateway_api.errors import as_gateway_error
from gateway_api.exchange import Call, Exchange
from gateway_api.named_tools import read_with_tools
from gateway_api.ollama import schema
from gateway_api.ollama.encoding import LineEncoder, error_body, rfc3339
from gateway_api.ollama.requests import Load, Parsed, parse_chat, parse_generate
from gateway_api.ollama.view import OllamaView, public_name
from gateway_api.resources import configuration, http_client, journal
from providers.routing import find_plan

NDJSON = "application/x-ndjson"


class _AnsweringView(OllamaView):
    endpoint: ClassVar[Literal["chat", "generate"]]

    async def _answer(self, request: Request, parsed: Parsed | Load) -> AnyAnswer:
        if isinstance(parsed, Load):
            return await self._loaded(parsed)
        http_request: Any = request._request
        parsed.request.params.model = await public_name(parsed.request.params.model)
        call = Call(
            caller=self.caller,
            request=parsed.request,
            request_id=http_request.request_id,
            wire="ollama",
            endpoint=self.endpoint,
            started=http_request.started,
            traceparent=http_request.traceparent,
        )
        exchange = await pipeline.begin(call, http=http_client(), journal=journal())
        generate = self.endpoint == "generate"
        if parsed.request.stream:
            return await _streamed(exchange, parsed, generate=generate)
        return await _whole(exchange, parsed, generate=generate)

    async def _loaded(self, load: Load) -> Answer:
        """What clients send before the first prompt. Nothing is asked upstream: whether a model is
        there is all that can be said of one that may run anywhere."""
        plan = await find_plan(
            configuration(),
            await public_name(load.model),
            may_use=self.caller.may_use,
            http=http_client(),
        )
        told: dict[str, Any] = {"model": plan.model, "created_at": rfc3339()}
        if self.endpoint == "generate":
            told["response"] = ""
        else:
            told["message"] = {"role": "assistant", "content": ""}
        told |= {"done": True, "done_reason": "unload" if load.unload else "load"}
        return Answer(orjson.dumps(told) + b"\n")


class ChatView(_AnsweringView):
    """Chat with any model of any provider, in Ollama's words."""

    endpoint = "chat"

    @extend_schema(
        operation_id="ollamaChat",
        summary="Chat",
        request=schema.CHAT_REQUEST,
        responses=schema.CHAT_RESPONSES,
        tags=["Ollama wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        parsed = await read_with_tools(request, parse_chat, caller=self.caller)
        return await self._answer(request, parsed)


class GenerateView(_AnsweringView):
    """Complete a prompt with any model of any provider, in Ollama's words."""

    endpoint = "generate"

    @extend_schema(
        operation_id="ollamaGenerate",
        summary="Complete a prompt",
        request=schema.GENERATE_REQUEST,
        responses=schema.GENERATE_RESPONSES,
        tags=["Ollama wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        return await self._answer(request, await read_parsed(request, parse_generate))


async def _whole(exchange: Exchange, parsed: Parsed, *, generate: bool) -> Answer:
    reply = await pipeline.complete(exchange, _Lines(exchange, parsed, generate=generate).whole)
    return Answer(reply.body, headers=exchange.headers())


async def _streamed(exchange: Exchange, parsed: Parsed, *, generate: bool) -> StreamAnswer:
    """The answer's lines; or an error's line and no `done: true` when it fails after the first
    (M26). A failure before it is raised (M25)."""
    pieces = pipeline.encoded(exchange, _Lines(exchange, parsed, generate=generate))
    first = await anext(pieces)
    # No keepalive: a reader of JSON lines knows no comments.
    return StreamAnswer(
        first,
        pieces,
        headers=exchange.headers(),
        content_type=NDJSON,
        failure=_told_in_band,
    )


def _told_in_band(error: Exception) -> bytes:
    return error_body(as_gateway_error(error)) + b"\n"


class _Lines:
    """The upstream's own lines where it speaks this wire, else ours."""

    def __init__(self, exchange: Exchange, parsed: Parsed, *, generate: bool) -> None:
        self._exchange = exchange
        self._parsed = parsed
        self._generate = generate
        self._encoder: LineEncoder | None = None

    def whole(self, reply: Reply) -> bytes:
        if reply.wire == "ollama":
            return reply.body
        return self._begin().whole(reply.body, self._exchange)

    def encode(self, batch: Batch) -> bytes:
        if batch.wire is not None:
            return batch.wire
        return (self._encoder or self._begin()).encode(batch)

    def end(self) -> bytes:
        return self._encoder.end(self._exchange) if self._encoder is not None else b""

    def _begin(self) -> LineEncoder:
        self._parsed.request.dropped |= self._parsed.lost
        self._encoder = LineEncoder(self._exchange.plan.model, generate=self._generate)
        return self._encoder
