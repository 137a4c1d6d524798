"""A session's messages as one model after another can be told them, whoever said them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sessions_app.session_rows import SessionMessage

_SIGNED = frozenset({"thinking_blocks"})
"""What only its maker can read."""
_THOUGHTS = frozenset({"reasoning_content", "reasoning"})
"""Wanted back by their maker within a loop over tools (DeepSeek), refused everywhere else: OpenAI
answers 400 to fields of messages it does not know (M38)."""
_NOTES = frozenset({"annotations"})
"""Said about an answer; no part of what models are told."""


def told_to(
    providers: Collection[str], rows: Sequence[SessionMessage], *, in_loop: bool
) -> list[dict[str, Any]]:
    """What was said, for a request that only these providers may get. `in_loop`: what is asked now
    answers calls of the last turn."""
    begins = max((at for at, row in enumerate(rows) if row.role == "user"), default=0)
    told = []
    for at, row in enumerate(rows):
        left_out = set(_NOTES)
        own = set(providers) == {row.provider}
        if not own:
            left_out |= _SIGNED
        if not (own and in_loop and at > begins):
            left_out |= _THOUGHTS
        told.append(_without(row.read(), left_out))
    return told


def _without(message: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    told = {name: value for name, value in message.items() if name not in names}
    audio = told.get("audio")
    if message["role"] == "assistant" and isinstance(audio, dict) and "id" in audio:
        told["audio"] = {"id": audio["id"]}  # all that is taken of it in a request
    return told


def with_summary(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with one system prompt where a summary follows it: the templates of many models
    take no second one."""
    if len(messages) < 2 or {each["role"] for each in messages[:2]} != {"system"}:
        return messages
    first, second, *rest = messages
    texts = [first.get("content"), second.get("content")]
    if not all(isinstance(text, str) for text in texts):
        return messages
    return [{**first, "content": "\n\n".join(map(str, texts))}, *rest]


def in_words(message: dict[str, Any]) -> dict[str, Any]:
    """A message of a conversation that is to be summed up, as text alone: calls in a history would
    need their tools beside it, and not every model sees images."""
    text = _text_of(message.get("content"))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        text += f"\n[called {function.get('name')} with {function.get('arguments')}]"
    if message["role"] in ("tool", "function"):
        return {"role": "user", "content": f"[a tool said: {text}]"}
    return {"role": message["role"], "content": text.strip() or "[nothing]"}


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text") or f"[{part.get('type')}]" for part in content)
    return content or ""
