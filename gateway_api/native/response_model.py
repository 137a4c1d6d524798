"""What `POST /v1/generate/structured` is asked: a prompt, and the model of its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct

from chat.errors import InvalidRequest
from chat.parsing import convert, parse_object
from chat.requests import ChatParams, ChatRequest
from gateway_api.anthropic.translation import is_strict
from gateway_api.native.answer_model import AnswerModel, answer_model
from providers.emulation.schema import AnswerSchema, schema_of

DEFAULT_RETRIES = 3
MAX_RETRIES = 10
_PARAM = "response_model"
_DEFINITIONS = ("$defs", "definitions")


class StructuredParams(Struct):
    """The fields of its own; what else a chat completion takes goes along (`temperature`, …)."""

    response_model: dict[str, Any]
    model: str | None = None
    prompt: str | None = None
    """A user's message, after `messages` where there are some."""
    messages: list[dict[str, Any]] | None = None
    system_prompt: str | None = None
    max_retries: Annotated[int, Meta(ge=0, le=MAX_RETRIES)] | None = None


_OWN = frozenset(StructuredParams.__struct_fields__) - {"model"}
_NOT_HERE = {
    "response_format": "the format is `response_model`",
    "tools": "the answer is an object, and no call",
    "functions": "the answer is an object, and no call",
    "n": "there is one answer",
}


@dataclass(frozen=True, slots=True)
class Structured:
    """A chat completion request, and what its answer must be."""

    request: ChatRequest
    model: type[AnswerModel]


def parse_structured(raw: bytes) -> Structured:
    """Raises InvalidRequest naming `param`."""
    body = parse_object(raw)
    _refuse(body)
    params = convert(body, StructuredParams)
    schema = _schema(params.response_model)
    chat = {name: value for name, value in body.items() if name not in _OWN}
    chat["stream"] = False
    chat["messages"] = _messages(params)
    chat["response_format"] = _response_format(schema)
    request = ChatRequest(params=convert(chat, ChatParams), body=chat, size=len(raw))
    retries = DEFAULT_RETRIES if params.max_retries is None else params.max_retries
    request.answer_retries = retries
    return Structured(request, answer_model(schema))


def _refuse(body: dict[str, Any]) -> None:
    for name, why in _NOT_HERE.items():
        if body.get(name) not in (None, [], 1):
            raise _refusal(name, f"{name!r} has no place here: {why}")
    if body.get("stream"):
        raise _refusal("stream", "The object comes whole: 'stream' has no place here")


def _refusal(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{message}.", param=param, code="unsupported_value")


def _messages(params: StructuredParams) -> list[dict[str, Any]]:
    messages = list(params.messages or ())
    if params.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": params.system_prompt})
    if params.prompt is not None:
        messages.append({"role": "user", "content": params.prompt})
    elif not params.messages:
        raise InvalidRequest(
            "Missing required parameter: 'prompt' (or 'messages').",
            param="prompt",
            code="missing_required_parameter",
        )
    return messages


def _response_format(schema: AnswerSchema) -> dict[str, Any]:
    """`strict` where OpenAI would take it: it refuses other schemas then, and without it holds a
    model to none."""
    named = {"name": "answer", "schema": schema.schema, "strict": is_strict(schema.schema)}
    return {"type": "json_schema", "json_schema": named}


def _schema(response_model: dict[str, Any]) -> AnswerSchema:
    if not response_model:
        raise InvalidRequest(
            "Invalid value for 'response_model': it names no field.",
            param=_PARAM,
            code="invalid_value",
        )
    if _is_schema(response_model):
        return schema_of(response_model, param=_PARAM)
    return schema_of(_of_fields(response_model), param=_PARAM)


def _is_schema(given: dict[str, Any]) -> bool:
    """A map of fields has a schema at every name: what no schema can be is a keyword's value."""
    if any(not isinstance(value, dict) for value in given.values()):
        return True
    properties = given.get("properties")
    return properties is not None and all(
        isinstance(each, dict | bool) for each in properties.values()
    )


def _of_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields, all of them and no others."""
    named = {name: part for name, part in fields.items() if name not in _DEFINITIONS}
    shared = {name: fields[name] for name in _DEFINITIONS if name in fields}
    return {
        "type": "object",
        "properties": named,
        "required": list(named),
        "additionalProperties": False,
        **shared,
    }
