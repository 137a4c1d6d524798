"""What a caller lets a model choose of its tools, for upstreams that do not read it themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chat.errors import InvalidRequest


def read_choice(choice: Any, offered: Mapping[str, Any]) -> tuple[str, frozenset[str] | None]:
    """`tool_choice` as none, auto or required, and the names it narrows the tools to; `offered`:
    the tools by name. Raises InvalidRequest."""
    if choice is None:
        return "auto", None
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise _bad_choice("`tool_choice` must be none, auto, required or an object.")
        mode, names = choice, None
    else:
        mode, names = _choice_object(choice)
    unknown = sorted((names or frozenset()) - offered.keys())
    if unknown:
        raise _bad_choice(
            f"`tool_choice` names the tool {unknown[0][:64]!r}, which is not offered."
        )
    if mode == "required" and not offered:
        raise _bad_choice("`tool_choice` demands a call, and no tools are offered.")
    return mode, names


def _choice_object(choice: dict[str, Any]) -> tuple[str, frozenset[str]]:
    try:
        if choice.get("type") == "function":
            return "required", frozenset({str(choice["function"]["name"])})
        if choice.get("type") == "allowed_tools":
            allowed = choice["allowed_tools"]
            mode = str(allowed.get("mode", "auto"))
            names = frozenset(str(tool["function"]["name"]) for tool in allowed["tools"])
            if mode in ("auto", "required") and names:
                return mode, names
    except (KeyError, TypeError, AttributeError):
        pass
    raise _bad_choice("`tool_choice` is an object this provider cannot follow.")


def _bad_choice(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="tool_choice", code="invalid_value")
