"""`POST /v1/generate/structured`: an object that fits a model, and nothing around it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from pydantic import ValidationError
from rest_framework.request import Request

from chat.errors import StructuredOutputInvalid
from chat.types import Reply
from gateway_api import pipeline
from gateway_api.answers import Answer, AnyAnswer
from gateway_api.async_view import AsyncAPIView, read_json_body
from gateway_api.exchange import Call, Exchange
from gateway_api.native.answer_model import AnswerModel
from gateway_api.native.response_model import StructuredParams, parse_structured
from gateway_api.openai.schema import ERROR_RESPONSES, NOT_IN_FORMAT
from gateway_api.resources import http_client, journal
from gateway_api.schemas import request_body
from providers.emulation.answer_text import NoAnswer, find_value

_REQUEST = request_body(StructuredParams)
_FIELDS = {
    "model": "openai/gpt-4o-mini",
    "prompt": "John Doe is 25 and lives in New York.",
    "response_model": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"type": "string"},
    },
}
_OBJECT = {"name": "John Doe", "age": 25, "city": "New York"}


class StructuredView(AsyncAPIView):
    """An answer that fits a model, of any model of any provider."""

    @extend_schema(
        operation_id="generateStructured",
        summary="Generate an object",
        description="`response_model` is a map of fields, or a JSON Schema (2020-12). An answer "
        "that does not fit is asked for again with what is wrong with it, up to `max_retries` "
        "times. The headers `x-gateway-attempts`, `x-gateway-tokens-input` and "
        "`x-gateway-tokens-output` tell what it took.",
        request=_REQUEST,
        examples=[OpenApiExample("fields", value=_FIELDS, request_only=True)],
        responses={
            (200, "application/json"): OpenApiResponse(
                {"description": "What `response_model` describes; most often an object."},
                description="The object, with nothing around it.",
                examples=[OpenApiExample("object", value=_OBJECT)],
            ),
            **ERROR_RESPONSES,
            **NOT_IN_FORMAT,
        },
        tags=["Structured output"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        http_request: Any = request._request
        # In a thread: a schema takes long to judge and to make a model of.
        structured = await asyncio.to_thread(parse_structured, await read_json_body(request))
        call = Call(
            caller=self.caller,
            request=structured.request,
            request_id=http_request.request_id,
            wire="openai",
            endpoint="generate.structured",
            started=http_request.started,
            traceparent=http_request.traceparent,
        )
        exchange = await pipeline.begin(call, http=http_client(), journal=journal())
        reply = await pipeline.complete(exchange)
        return Answer(_object(reply, structured.model), headers=_headers(exchange))


def _object(reply: Reply, model: type[AnswerModel]) -> bytes:
    """The very text of the answer. Raises StructuredOutputInvalid for a refusal, which no schema
    was held to, and for what the schema lets pass and the model does not."""
    message = orjson.loads(reply.body)["choices"][0]["message"]
    said = message.get("refusal") or message.get("content") or ""
    try:
        found = find_value(said)
        model.model_validate(found.value)
    except NoAnswer as error:
        raise _invalid(said, [{"path": "$", "message": str(error)}]) from None
    except ValidationError as error:
        raise _invalid(said, list(map(_told, error.errors(include_url=False)))) from None
    return found.text.encode()


def _told(error: Any) -> dict[str, str]:
    return {"path": ".".join(map(str, ("$", *error["loc"]))), "message": error["msg"]}


def _invalid(said: str, problems: list[dict[str, str]]) -> StructuredOutputInvalid:
    return StructuredOutputInvalid(
        "The model did not answer in the format that was asked for.",
        problems=problems,
        last_text=said,
    )


def _headers(exchange: Exchange) -> list[tuple[str, str]]:
    counts = exchange.counts()
    return [
        *exchange.headers(),
        ("x-gateway-tokens-input", str(counts.input)),
        ("x-gateway-tokens-output", str(counts.output)),
    ]
