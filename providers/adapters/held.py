"""What of a request its model's answer is held to, and how much of that llama.cpp can bear."""

from __future__ import annotations

from typing import Any

from chat.errors import InvalidRequest
from chat.requests import ChatRequest

MAX_PARTS = 1000
"""Schemas, and entries of their lists. llama.cpp bounds nothing, and while it tries a grammar's
alternatives nobody else's token is made: 500 values to choose from took 2.6 s, 2,000 took 18 s, and
4,000 properties of 40 values 280 s (xllamacpp 2026.10.11549, 2026-11-25)."""


def holds_to_anything(request: ChatRequest) -> bool:
    params = request.params
    return params.response_format is not None or params.tool_choice not in (None, "auto", "none")


def require_modest(request: ChatRequest, *, param: str) -> None:
    """Raises InvalidRequest for a schema that would hold up everybody else."""
    asked = request.params.response_format
    if asked is None or asked.json_schema is None:
        return
    parts = 0
    waiting: list[Any] = [asked.json_schema]
    while waiting:
        part = waiting.pop()
        inner = list(part.values() if isinstance(part, dict) else part)
        parts += 1 if isinstance(part, dict) else len(inner)
        waiting += [each for each in inner if isinstance(each, dict | list)]
    if parts > MAX_PARTS:
        raise InvalidRequest(
            f"This model can be held to a schema of at most {MAX_PARTS} parts; this one has "
            f"{parts}.",
            param=param,
            code="schema_too_large",
        )
