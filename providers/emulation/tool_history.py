"""The calls and results of a conversation so far, as the model's family writes them itself."""

from __future__ import annotations

from typing import Any

import orjson

from chat.errors import InvalidRequest
from chat.requests import CalledFunction, ChatParams, Message
from providers.emulation.tool_prompt import joined
from providers.emulation.writing import Call, Envelope, Result

_CALL_FIELDS = ("tool_calls", "function_call")


def written_history(
    messages: list[dict[str, Any]], params: ChatParams, envelope: Envelope
) -> list[dict[str, Any]]:
    """The conversation in text alone: calls at the end of the message that makes them, the results
    that belong together in one message of the user, with what the user says next. Raises
    InvalidRequest for arguments that are no JSON object (M30)."""
    names: dict[str, str] = {}
    told: list[dict[str, Any]] = []
    results: list[Result] = []
    pictures: list[Any] = []
    for at, (fields, message) in enumerate(zip(messages, params.messages, strict=True)):
        if message.role in ("tool", "function"):
            results.append(_result(message, names))
            pictures += _pictures(fields)
            continue
        if results:
            shown = _shown(envelope.write_results(results), pictures)
            results, pictures = [], []
            if message.role == "user":
                fields = _with_results(fields, shown)
            else:
                told.append({"role": "user", "content": shown})
        told.append(_spoken(fields, message, f"messages[{at}]", names=names, envelope=envelope))
    if results:
        shown = _shown(envelope.write_results(results), pictures)
        told.append({"role": "user", "content": shown})
    return told


def _shown(text: str, pictures: list[Any]) -> Any:
    return [{"type": "text", "text": text}, *pictures] if pictures else text


def _with_results(fields: dict[str, Any], shown: Any) -> dict[str, Any]:
    """What the user says, after the results: many models take no two messages of one role in a
    row."""
    if isinstance(shown, str):
        return joined(fields, shown, after=False)
    content = fields["content"]
    said = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return {**fields, "content": [*shown, *said]}


def _spoken(
    fields: dict[str, Any],
    message: Message,
    place: str,
    *,
    names: dict[str, str],
    envelope: Envelope,
) -> dict[str, Any]:
    calls = []
    for position, call in enumerate(message.tool_calls or ()):
        where = f"{place}.tool_calls[{position}]"
        if call.function is None:
            raise InvalidRequest(
                f"This provider has no calls of type `{call.type[:64]}`.",
                param=where,
                code="unsupported_parameter",
            )
        names[call.id] = call.function.name
        calls.append(_call(call.function, f"{where}.function"))
    if message.function_call is not None:
        calls.append(_call(message.function_call, f"{place}.function_call"))
    if not calls:
        return fields
    kept = {name: value for name, value in fields.items() if name not in _CALL_FIELDS}
    return joined(kept, envelope.write_calls(calls), after=True)


def _call(function: CalledFunction, place: str) -> Call:
    try:
        arguments = orjson.loads(function.arguments) if function.arguments.strip() else {}
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            f"'{place}.arguments' is not a JSON object.",
            param=f"{place}.arguments",
            code="invalid_value",
        )
    return Call(function.name, arguments)


def _result(message: Message, names: dict[str, str]) -> Result:
    name = names.get(message.tool_call_id or "") or message.name or ""
    content = message.content
    if isinstance(content, list):
        content = "\n".join(part.text for part in content if part.text is not None)
    return Result(name, content or "")


def _pictures(fields: dict[str, Any]) -> list[Any]:
    """What a result holds beside text, which goes along as it is."""
    content = fields.get("content")
    parts = content if isinstance(content, list) else []
    return [part for part in parts if part.get("type") != "text"]
