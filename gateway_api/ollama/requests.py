"""An Ollama request as a ChatRequest: `body` in OpenAI's shape, `native` as it came.

What OpenAI's shape has no word for is in `Parsed.lost`: the caller is told of it, unless an Ollama
upstream gets the native body after all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from chat.errors import InvalidRequest
from chat.images import media_type_of_base64
from chat.parsing import convert, parse_object
from chat.requests import ChatParams, ChatRequest, server_rounds, without_execution
from gateway_api.ollama.fields import (
    ChatFields,
    GenerateFields,
    Message,
    Options,
    OptionsHolder,
    Tool,
)

T = TypeVar("T")

_MAPPED_OPTIONS = frozenset(Options.__struct_fields__)
_EFFORTS: dict[bool | str, str] = {True: "medium", False: "none"}
_CHAT_FIELDS = frozenset(ChatFields.__struct_fields__)
_GENERATE_FIELDS = frozenset(GenerateFields.__struct_fields__)


@dataclass(slots=True)
class Parsed:
    """A request, and the fields only an Ollama upstream can have."""

    request: ChatRequest
    lost: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Load:
    """A request without a prompt: it asks for a model to be loaded, or with `keep_alive: 0` to be
    unloaded, and for no answer."""

    model: str | None
    unload: bool


def parse_fields(raw: bytes, fields: type[T]) -> tuple[dict[str, Any], T]:
    """The body as it came, and typed. Raises InvalidRequest naming the field."""
    native = parse_object(raw)
    return native, convert(native, fields)


def parse_chat(raw: bytes) -> Parsed | Load:
    """A body of `/api/chat`. Raises InvalidRequest."""
    native, fields = parse_fields(raw, ChatFields)
    if not fields.messages:
        return _load(fields)
    lost = {name for name in native if name not in _CHAT_FIELDS and native[name] is not None}
    body = _common(fields, native, lost)
    body["messages"] = list(_messages(fields.messages))
    if fields.tools:
        body["tools"] = [_tool(tool, at) for at, tool in enumerate(fields.tools)]
    request = _request(body, without_execution(native), len(raw))
    request.server_rounds = server_rounds(fields)
    return Parsed(request, lost)


def parse_generate(raw: bytes) -> Parsed | Load:
    """A body of `/api/generate`. Raises InvalidRequest."""
    native, fields = parse_fields(raw, GenerateFields)
    if not fields.prompt and not fields.images:
        return _load(fields)
    lost = {name for name in native if name not in _GENERATE_FIELDS and native[name] is not None}
    lost.update(name for name in ("template", "context") if native.get(name))
    body = _common(fields, native, lost)
    prompt: dict[str, Any] = {"role": "user", "content": fields.prompt or ""}
    if fields.images:
        prompt["content"] = _parts(fields.prompt, fields.images, "images")
    system = [{"role": "system", "content": fields.system}] if fields.system else []
    body["messages"] = [*system, prompt]
    request = _request(body, native, len(raw))
    for name, wanted in (("suffix", fields.suffix), ("raw", fields.raw)):
        if wanted:
            request.native_only = InvalidRequest(
                f"Only a model of an Ollama provider can be asked with `{name}`.",
                param=name,
                code="unsupported_parameter",
            )
    return Parsed(request, lost)


def _load(fields: ChatFields | GenerateFields) -> Load:
    kept = fields.keep_alive
    unload = kept == 0 or (isinstance(kept, str) and kept.strip().rstrip("smh") == "0")
    return Load(fields.model, unload)


def _request(body: dict[str, Any], native: dict[str, Any], size: int) -> ChatRequest:
    return ChatRequest(
        params=convert(body, ChatParams), body=body, size=size, wire="ollama", native=native
    )


def _common(
    fields: ChatFields | GenerateFields, native: dict[str, Any], lost: set[str]
) -> dict[str, Any]:
    body: dict[str, Any] = {"stream": fields.stream is not False}
    if fields.model is not None:
        body["model"] = fields.model
    if fields.options:
        _add_options(body, fields.options, lost)
    if fields.format:
        body["response_format"] = _response_format(fields.format)
    if fields.think is not None:
        body["reasoning_effort"] = _EFFORTS.get(fields.think, fields.think)
    if fields.logprobs:
        body["logprobs"] = True
        if fields.top_logprobs is not None:
            body["top_logprobs"] = fields.top_logprobs
    if fields.keep_alive is not None:
        lost.add("keep_alive")
    return body


def _add_options(body: dict[str, Any], options: dict[str, Any], lost: set[str]) -> None:
    known = convert({"options": options}, OptionsHolder).options
    assert known is not None
    for name in _MAPPED_OPTIONS & options.keys():
        value = getattr(known, name)
        if value is None:
            continue
        if name != "num_predict":
            body[name] = value
        elif value > 0:  # -1 and -2 mean no limit
            body["max_tokens"] = value
    lost.update(
        f"options.{name}" for name in options.keys() - _MAPPED_OPTIONS if options[name] is not None
    )


def _response_format(wanted: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(wanted, str):
        return {"type": "json_object"}
    told = {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
    try:
        orjson.dumps([told])  # it stands two levels deeper than it came
    except TypeError:
        raise InvalidRequest("`format` is nested too deeply.", param="format") from None
    return told


def _tool(tool: Tool, at: int) -> dict[str, Any]:
    if tool.type not in (None, "function"):
        raise InvalidRequest(
            "A tool's type must be `function`.", param=f"tools[{at}].type", code="invalid_value"
        )
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.description is not None:
        function["description"] = tool.function.description
    function["parameters"] = tool.function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Ollama's calls may have no ids, and its results then name the tool: ids are made by place,
    the same in every turn, and a result answers the first call of its tool that has no result."""
    open_calls: list[tuple[str, str]] = []
    for at, message in enumerate(messages):
        told: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.images:
            told["content"] = _parts(message.content, message.images, f"messages[{at}].images")
        if message.role == "assistant":
            open_calls += _add_calls(told, message, at)
        elif message.role == "tool":
            told["tool_call_id"] = _answered(message, open_calls) or f"call_{at}"
        yield told


def _add_calls(told: dict[str, Any], message: Message, at: int) -> list[tuple[str, str]]:
    """Puts thinking and calls to an assistant's message; returns the calls' ids and names."""
    if message.thinking:
        told["reasoning_content"] = message.thinking
    calls, named = [], []
    for position, call in enumerate(message.tool_calls or ()):
        id_, name = call.id or f"call_{at}_{position}", call.function.name
        place = f"messages[{at}].tool_calls[{position}].function.arguments"
        function = {"name": name, "arguments": _arguments(call.function.arguments, place)}
        calls.append({"id": id_, "type": "function", "function": function})
        named.append((id_, name))
    if calls:
        told["tool_calls"] = calls
        told["content"] = told["content"] or None
    return named


def _arguments(arguments: dict[str, Any] | str | None, place: str) -> str:
    if isinstance(arguments, str):
        try:
            parsed = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict):
            raise InvalidRequest(f"'{place}' must be an object.", param=place, code="invalid_type")
        return arguments if arguments.strip() else "{}"
    return orjson.dumps(arguments or {}).decode()


def _answered(message: Message, open_calls: list[tuple[str, str]]) -> str | None:
    """The id of the call a result answers, which is then no longer open."""
    if message.tool_call_id:
        open_calls[:] = [call for call in open_calls if call[0] != message.tool_call_id]
        return message.tool_call_id
    named = [call for call in open_calls if message.tool_name in (None, call[1])]
    if not named:
        return None
    open_calls.remove(named[0])
    return named[0][0]


def _parts(text: str | None, images: list[str], place: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for position, image in enumerate(images):
        url = image if image[:5] == "data:" else _data_url(image, f"{place}[{position}]")
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _data_url(image: str, place: str) -> str:
    try:
        media_type = media_type_of_base64(image)
    except ValueError:
        media_type = None
    if media_type is None:
        raise InvalidRequest(
            f"'{place}' is not an image of a known format in base64.",
            param=place,
            code="invalid_image",
        )
    return f"data:{media_type};base64,{image}"
