"""What a model is told about its tools, and where in the conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from providers.emulation.tool_choice import Offer
from providers.emulation.writing import Call, Envelope

_EXAMPLE = Call("TOOL_NAME", {"PARAMETER": "VALUE"})


def tools_told(offer: Offer, envelope: Envelope) -> str:
    """The tools on offer and how they are called, for the system message."""
    described = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in offer.tools.values())
    lines = [
        "You can use tools. Here they are, one JSON object a line, the parameters of each as a "
        "JSON Schema:",
        f"<tools>\n{described}\n</tools>",
        "To call a tool, write its name and arguments in exactly this form, as plain text of your "
        "answer:",
        envelope.write_calls([_EXAMPLE]),
        "After a call write nothing more: its result comes in the next message. Leave out optional "
        "parameters you have no value for, and invent no values for required ones. Where no tool "
        "helps, answer without one.",
    ]
    if offer.policy.single:
        lines.append("Call one tool at most.")
    else:
        lines.append("Several calls follow one another.")
    if offer.instruction is not None:
        lines.append(offer.instruction)
    return "\n".join(lines)


def with_instructions(
    messages: list[dict[str, Any]], text: str, *, system_role: bool
) -> list[dict[str, Any]]:
    """The conversation with `text` in its first system message, or in its first message of the
    user where the model takes no system message."""
    roles = ("system", "developer") if system_role else ("user",)
    at = next((at for at, each in enumerate(messages) if each.get("role") in roles), None)
    if at is None or (system_role and at > 0 and messages[0].get("role") not in roles):
        role = "system" if system_role else "user"
        return [{"role": role, "content": text}, *messages]
    told = joined(messages[at], text, after=system_role)
    return [*messages[:at], told, *messages[at + 1 :]]


def joined(message: Mapping[str, Any], text: str, *, after: bool) -> dict[str, Any]:
    """A message with `text` after or before its content, which may come in parts."""
    content = message.get("content")
    if isinstance(content, list):
        part = {"type": "text", "text": text}
        return {**message, "content": [*content, part] if after else [part, *content]}
    pieces = [content or "", text] if after else [text, content or ""]
    return {**message, "content": "\n\n".join(piece for piece in pieces if piece)}
