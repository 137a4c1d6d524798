"""What api.openai.com takes of a request that came in on another wire.

It answers 400 to fields it does not know (M38), where compatible servers read them or pass over
them: OpenRouter takes `cache_control`, DeepSeek wants `reasoning_content` back in a tool loop.
Some compatible servers are as strict (Groq, Mistral); their rows say `extensions: false`.
A request of a caller who speaks OpenAI is not looked at: what stands there was meant.
"""

from __future__ import annotations

from typing import Any

_OF_MESSAGES = {"reasoning_content": "thinking", "thinking_blocks": "thinking"}


def narrow(body: dict[str, Any], dropped: set[str]) -> None:
    """Changes `body` (its lists are replaced, not changed) and notes what is left out."""
    leave_extensions_out(body, dropped)
    if body["messages"][-1]["role"] == "assistant":
        dropped.add("prefill")  # other wires continue it; OpenAI's models begin anew
    if "max_tokens" in body and "max_completion_tokens" not in body:
        # Models that reason refuse the older name; every model takes the newer.
        body["max_completion_tokens"] = body.pop("max_tokens")
    if body.get("reasoning_effort") == "none":
        # Where a model can be told not to reason, that is its default; others refuse the word.
        del body["reasoning_effort"]
        dropped.add("reasoning_effort")


def leave_extensions_out(body: dict[str, Any], dropped: set[str]) -> None:
    """The part of `narrow` that any strict server wants: no marks for a cache, no thoughts."""
    body["messages"] = [_message(message, dropped) for message in body["messages"]]
    if "tools" in body:
        body["tools"] = [_unmarked(tool, dropped) for tool in body["tools"]]


def _message(message: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    message = dict(message)
    for name, told in _OF_MESSAGES.items():
        if message.pop(name, None) is not None:
            dropped.add(told)
    for name in ("content", "tool_calls"):
        parts = message.get(name)
        if isinstance(parts, list):
            message[name] = [_unmarked(part, dropped) for part in parts]
    return message


def _unmarked(part: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    if "cache_control" not in part:
        return part
    dropped.add("cache_control")
    return {name: value for name, value in part.items() if name != "cache_control"}
