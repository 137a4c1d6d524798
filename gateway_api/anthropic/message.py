"""A chat completion as a message of this wire."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from msgspec import Struct

from chat.errors import UpstreamFailed
from chat.ids import new_id
from chat.types import Reply, TokenCounts
from gateway_api.anthropic.usage import stop_fields, usage_fields


class _Function(Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(Struct):
    function: _Function | None = None
    id: str | None = None


class _Message(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    thinking_blocks: list[dict[str, Any]] | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None
    stop_reason: Any = None


class _Completion(Struct):
    choices: list[_Choice]
    model: str | None = None


_decode = msgspec.json.Decoder(_Completion).decode


def message_of(reply: Reply, counts: TokenCounts, *, model: str, stops: list[str]) -> bytes:
    """The first choice as a message. `model` is named where the answer names none. Raises
    UpstreamFailed for a completion that holds no message, and for tool calls that cannot be read:
    this wire carries their arguments as values, and `{}` would be another call than was made."""
    try:
        completion = _decode(reply.body)
    except msgspec.DecodeError:
        raise UpstreamFailed("The provider's answer is of an unknown shape.") from None
    choice = completion.choices[0]
    message, finish = choice.message, choice.finish_reason
    cut = finish in ("length", "content_filter")
    calls = [call for call in message.tool_calls or () if call.function is not None]
    if message.function_call is not None:  # what calls were before they had ids
        calls.append(_Call(message.function_call))
    content = [*thoughts_of(message), *_texts(message.content, message.refusal)]
    content += [block for call in calls for block in _tool_use(call, cut=cut)]
    return orjson.dumps(
        {
            "id": new_message_id(),
            "type": "message",
            "role": "assistant",
            "model": completion.model or model,
            "content": content,
            **stop_fields(finish, matched=choice.stop_reason, stops=stops, called=bool(calls)),
            "usage": usage_fields(counts),
        }
    )


def new_message_id() -> str:
    return f"msg_{new_id()}"


def new_call_id() -> str:
    """For servers that give their tool calls no id: this wire's results name the call by it."""
    return f"toolu_{new_id()}"


def thoughts_of(message: _Message) -> list[dict[str, Any]]:
    """Whole blocks where the upstream gave them, else its reasoning as a block nobody signed."""
    if message.thinking_blocks:
        return message.thinking_blocks
    text = message.reasoning_content or message.reasoning
    if not text or not isinstance(text, str):
        return []
    return [{"type": "thinking", "thinking": text, "signature": ""}]


def _texts(*texts: str | None) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts if text]


def _tool_use(call: _Call, *, cut: bool) -> list[dict[str, Any]]:
    """The call's block, or nothing for one that was cut off in the middle of its arguments."""
    assert call.function is not None
    arguments = call.function.arguments
    if not isinstance(arguments, dict):
        arguments = read_arguments(arguments or "")
    if arguments is None:
        if cut:
            return []
        raise UpstreamFailed("The model's tool call has arguments that are not a JSON object.")
    return [
        {
            "type": "tool_use",
            "id": call.id or new_call_id(),
            "name": call.function.name,
            "input": arguments,
        }
    ]


def read_arguments(text: str) -> dict[str, Any] | None:
    """The arguments of a call, none written being none given; None for what is no JSON object."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None
