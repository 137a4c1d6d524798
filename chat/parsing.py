"""Reads a caller's JSON into the vocabulary, or says in one sentence what is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec
import orjson

from chat.errors import InvalidRequest
from chat.prompts import Prompt, count_token_ids
from chat.requests import (
    ChatParams,
    ChatRequest,
    EmbeddingsParams,
    EmbeddingsRequest,
    server_rounds,
    without_execution,
)
from chat.text_completions import TextParams, TextRequest

_AT = re.compile(r" - at `\$?\.?(.*)`$")
_MISSING = re.compile(r"required field `(\w+)`")
_NAMED = re.compile(r"`(\w+)`")
_BYTES_PER_TOKEN = 4
Params = TypeVar("Params")


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises InvalidRequest for anything else, including NaN, lone
    surrogates, a name that stands twice in one object, and nesting past what JSON writers take."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The request body is not valid JSON: {error}.", code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.", code="invalid_type")
    _refuse_ambiguity(raw, body)
    return body


def _refuse_ambiguity(raw: bytes, body: dict[str, Any]) -> None:
    """A duplicate name means one thing to us and maybe another to the upstream.

    A writer puts out as many quotes as it read unless a member was dropped (each takes at least
    two with it) or an escaped quote was spelled `\\u0022`: only then is the slow reader needed.
    """
    try:
        written = orjson.dumps(body)
    except TypeError:
        raise InvalidRequest(
            "The request body is nested too deeply.", code="invalid_json"
        ) from None
    # The first look is the cheap one: long bodies are images, and those have no escapes.
    is_plain = b"\\" not in raw or b"\\u0022" not in raw
    if is_plain and written.count(b'"') == raw.count(b'"'):
        return
    json.loads(raw, object_pairs_hook=_unique_names)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise InvalidRequest(
                f"The name {name[:64]!r} stands twice in one JSON object.", code="invalid_json"
            )
        members[name] = value
    return members


def parse_chat_request(raw: bytes) -> ChatRequest:
    """A chat completion request on the OpenAI wire. Raises InvalidRequest naming `param`."""
    body = parse_object(raw)
    request = ChatRequest(params=convert(body, ChatParams), body=body, size=len(raw))
    if "tool_execution" in body or "max_tool_rounds" in body:
        request.body = without_execution(body)
        request.server_rounds = server_rounds(request.params)
    return request


def convert(body: dict[str, Any], params: type[Params]) -> Params:
    """The typed fields of a request. Raises InvalidRequest naming `param`."""
    try:
        return msgspec.convert(body, params)
    except msgspec.ValidationError as error:
        raise explain_mismatch(error) from None


def parse_embeddings_request(raw: bytes) -> EmbeddingsRequest:
    """An embeddings request on the OpenAI wire. Raises InvalidRequest naming `param`."""
    body = parse_object(raw)
    params = convert(body, EmbeddingsParams)
    if params.input == "":
        raise InvalidRequest(
            "Invalid value for 'input': an empty string has no embedding.",
            param="input",
            code="invalid_value",
        )
    return EmbeddingsRequest(params=params, body=body, size=size_of(params.input, raw))


def parse_text_request(raw: bytes) -> TextRequest:
    """A text completion request on the OpenAI wire. Raises InvalidRequest naming `param`."""
    body = parse_object(raw)
    params = convert(body, TextParams)
    return TextRequest(params=params, body=body, size=size_of(params.prompt, raw))


def size_of(prompt: Prompt, raw: bytes) -> int:
    """The size of a request whose prompt may be tokens: those need no estimate."""
    tokens = count_token_ids(prompt)
    return len(raw) if tokens is None else tokens * _BYTES_PER_TOKEN


def explain_mismatch(error: msgspec.ValidationError) -> InvalidRequest:
    """msgspec's `Expected `str`, got `int` - at `$.messages[0].content`` in the wire's words."""
    problem = str(error)
    place = _AT.search(problem)
    path = place.group(1) if place else ""
    reason = problem[: place.start()] if place else problem
    missing = _MISSING.search(reason)
    if missing and reason.startswith("Object missing"):
        param = f"{path}.{missing.group(1)}" if path else missing.group(1)
        return InvalidRequest(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    named = _NAMED.search(reason)
    if not path and named and reason.startswith("`"):
        path = named.group(1)
    code = "invalid_type" if reason.startswith("Expected") else "invalid_value"
    subject = f"Invalid value for '{path}': " if path else "Invalid request: "
    return InvalidRequest(f"{subject}{reason}.", param=path or None, code=code)
