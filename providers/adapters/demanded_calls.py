"""Calls of tools that a request demands, from a model that can be held to a schema: it is asked for
the calls as JSON, and its answer is told as calls. They are valid by construction.

llama.cpp's own server forces nothing: asked with `required` or a function's name it answered text,
with a chat template that knows tools and with one that does not (xllamacpp 2026.10.11549,
2026-11-25).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import orjson

from chat.errors import InvalidRequest, ToolChoiceNotMet, UpstreamFailed, UpstreamRejected
from chat.parsing import convert
from chat.requests import ChatParams, ChatRequest, FunctionDefinition
from chat.types import Batch, ChatChunk, ChunkChoice, Reply
from providers.adapters.written_calls import CallReader
from providers.emulation.tool_choice import read_choice

MAX_CALLS = 8
"""In one answer: a small model that may make more finds no end."""
_OF_CALLS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request demands: a call of one of these tools, or several where it asks for that."""

    tools: Sequence[FunctionDefinition]
    several: bool

    def schema(self) -> dict[str, Any]:
        """Of the text that holds the calls."""
        parameters = {f"tool{at}": _parameters(tool, at) for at, tool in enumerate(self.tools)}
        calls = [_call(tool.name, at) for at, tool in enumerate(self.tools)]
        call = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self.several:
            call = {"type": "array", "items": call, "minItems": 1, "maxItems": MAX_CALLS}
        return {**call, "$defs": parameters}


def read_demand(request: ChatRequest) -> Demand | None:
    """None where the model may answer with text. Raises InvalidRequest."""
    params = request.params
    if params.tool_choice in (None, "auto", "none"):
        return None
    offered = {tool.function.name: tool.function for tool in params.tools or () if tool.function}
    mode, names = read_choice(params.tool_choice, offered)
    if mode != "required":
        return None
    if any(tool.function is None for tool in params.tools or ()):
        raise InvalidRequest("This model can be made to call functions only.", param="tools")
    tools = [tool for name, tool in offered.items() if names is None or name in names]
    return Demand(tools, several=params.parallel_tool_calls is True)


def ask(request: ChatRequest, demand: Demand, *, knows_tools: bool) -> ChatRequest:
    """The request that asks for the calls as JSON. `knows_tools`: whether the model's chat template
    tells it of tools and calls; otherwise it is told of them in words."""
    body = {name: value for name, value in request.body.items() if name not in _OF_CALLS}
    if knows_tools:
        body |= {"tools": request.body["tools"], "tool_choice": "none"}
    else:
        body["messages"] = [_instructions(demand), *map(_in_words, body["messages"])]
        body["messages"] = _with_one_system_message(body["messages"])
    format_ = {"name": "calls", "strict": True, "schema": demand.schema()}
    body["response_format"] = {"type": "json_schema", "json_schema": format_}
    request.emulated.add("tool_choice")
    return replace(request, params=convert(body, ChatParams), body=body, native=None)


@contextmanager
def told_of_tools(calls: CallRestorer | None) -> Iterator[None]:
    """What the model's server says of the schema is told of where the caller gave it: in a tool,
    where calls were demanded."""
    try:
        yield
    except UpstreamRejected as error:
        if calls is None:
            raise
        if error.param == "response_format" or "JSON schema" in error.message:
            error.param = "tools"
        raise


class CallRestorer:
    """One answer's calls, out of the text of its choices."""

    def __init__(self) -> None:
        self._readers: dict[int, CallReader] = {}

    def whole(self, reply: Reply) -> Reply:
        """Raises ToolChoiceNotMet where the answer ended before a call began."""
        try:
            body = orjson.loads(reply.body)
            for choice in body["choices"]:
                self._restore(choice)
        except (ValueError, KeyError, TypeError):
            raise UpstreamFailed("The local model's answer is of an unknown shape.") from None
        finish = body["choices"][0]["finish_reason"] if body["choices"] else reply.finish_reason
        return msgspec.structs.replace(reply, body=orjson.dumps(body), finish_reason=finish)

    def _restore(self, choice: dict[str, Any]) -> None:
        reader, message = CallReader(), choice["message"]
        calls = reader.feed(message["content"] or "")
        message["content"] = None
        message["tool_calls"] = [
            {name: value for name, value in msgspec.to_builtins(call).items() if name != "index"}
            for call in calls
        ]
        choice["finish_reason"] = _finish(choice["finish_reason"], reader)

    def batch(self, batch: Batch) -> Batch | None:
        """What can be shown now. Raises ToolChoiceNotMet."""
        chunks = [chunk for chunk in batch.chunks if self._has_more(chunk)]
        return Batch(chunks) if chunks else None

    def _has_more(self, chunk: ChatChunk) -> bool:
        shown = [self._changed(choice) for choice in chunk.choices]
        return any(shown) or not chunk.choices

    def _changed(self, choice: ChunkChoice) -> bool:
        """Whether the choice still says anything."""
        reader = self._readers.setdefault(choice.index, CallReader())
        delta = choice.delta
        if delta.content is not None:
            delta.tool_calls = reader.feed(delta.content) or None
            delta.content = None
        if choice.finish_reason is not None:
            choice.finish_reason = _finish(choice.finish_reason, reader)
        return bool(delta.role or delta.tool_calls or choice.finish_reason or choice.logprobs)


def _finish(reason: Any, reader: CallReader) -> Any:
    if reader.count:
        return "tool_calls" if reason == "stop" else reason
    raise ToolChoiceNotMet(
        "The answer ended at its limit of tokens, before the call that `tool_choice` demands."
        if reason == "length"
        else "The model did not call a tool, which `tool_choice` demands.",
        param="tool_choice",
    )


def _call(name: str, at: int) -> dict[str, Any]:
    properties = {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/tool{at}"}}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _parameters(tool: FunctionDefinition, at: int) -> dict[str, Any]:
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    moved: dict[str, Any] = _moved(tool.parameters, f"#/$defs/tool{at}")
    return {"type": "object", **moved}


def _moved(part: Any, place: str) -> Any:
    """A schema whose references to its own parts are right at another place."""
    if isinstance(part, list):
        return [_moved(each, place) for each in part]
    if not isinstance(part, dict):
        return part
    moved = {name: _moved(value, place) for name, value in part.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved


# --- in words -----------------------------------------------------------------------------------


def _instructions(demand: Demand) -> dict[str, Any]:
    tools = [_described(tool) for tool in demand.tools]
    wanted = "one function" if not demand.several else "one or more of the functions"
    call = '{"name": the name of the function, "arguments": its arguments}'
    told = [
        "You can call these functions:",
        *tools,
        f"Now call {wanted}. Answer with JSON and nothing else: {call}",
    ]
    if demand.several:
        told[-1] += ", or an array of such calls."
    return {"role": "system", "content": "\n".join(told)}


def _described(tool: FunctionDefinition) -> str:
    told = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return orjson.dumps({name: value for name, value in told.items() if value}).decode()


def _in_words(message: dict[str, Any]) -> dict[str, Any]:
    """A message of earlier calls as one that every chat template can show."""
    if message.get("role") == "tool":
        return {"role": "user", "content": f"The function answered: {_text(message)}"}
    if not message.get("tool_calls"):
        return message
    calls = [
        f'{{"name": {orjson.dumps(call["function"]["name"]).decode()}, '
        f'"arguments": {call["function"]["arguments"]}}}'
        for call in message["tool_calls"]
        if call.get("function")
    ]
    text = "\n".join(filter(None, [_text(message), *calls]))
    return {"role": "assistant", "content": text}


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _with_one_system_message(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Many templates take a system message only as the first, and only one."""
    told, first = messages[0], messages[1]
    if first.get("role") not in ("system", "developer"):
        return messages
    joined = {**first, "content": f"{_text(first)}\n\n{told['content']}"}
    return [joined, *messages[2:]]
