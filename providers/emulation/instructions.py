"""What a model is told beside its caller's words."""

from __future__ import annotations

from typing import Any

_LEADING = ("system", "developer")


def with_instruction(messages: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """A copy that says `words` in the leading system message, one of which many chat templates take
    and no more; a new one where there is none."""
    first = messages[0] if messages else {}
    if first.get("role") not in _LEADING:
        return [{"role": "system", "content": words}, *messages]
    content = first.get("content")
    if isinstance(content, list):
        told: Any = [*content, {"type": "text", "text": words}]
    else:
        told = f"{content}\n\n{words}" if content else words
    return [{**first, "content": told}, *messages[1:]]
