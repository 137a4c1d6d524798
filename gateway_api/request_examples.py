"""What `/docs` and `/openapi.json` show as a first request of an operation."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample

_MODEL = "openai/gpt-4o-mini"
_HELLO = {"role": "user", "content": "What is the capital of France?"}


def _example(name: str, value: dict[str, Any]) -> list[OpenApiExample]:
    return [OpenApiExample(name, value=value, request_only=True)]


CHAT = _example("chat", {"model": _MODEL, "messages": [_HELLO]})
RESPONSE = _example("response", {"model": _MODEL, "input": "What is the capital of France?"})
MESSAGE = _example("message", {"model": _MODEL, "max_tokens": 500, "messages": [_HELLO]})
TURN = _example("turn", {"messages": [_HELLO]})
SESSION = _example("session", {"model": _MODEL, "system_prompt": "Be brief."})
CONVERSATION = _example("conversation", {"metadata": {"topic": "capitals"}})
ITEMS = _example("items", {"items": [{"type": "message", **_HELLO}]})
TOOL = _example(
    "tool",
    {
        "name": "get_weather",
        "kind": "http",
        "url": "https://tools.example/weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
)
