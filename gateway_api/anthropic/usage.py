"""Token counts and stop reasons as this wire tells them."""

from __future__ import annotations

from typing import Any

from chat.types import TokenCounts

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def usage_fields(counts: TokenCounts) -> dict[str, Any]:
    """Anthropic's `input_tokens` are those that no cache was read or written for."""
    fields: dict[str, Any] = {
        "input_tokens": counts.input - counts.cached - counts.cache_write,
        "cache_creation_input_tokens": counts.cache_write,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.output,
    }
    if counts.reasoning:
        fields["output_tokens_details"] = {"thinking_tokens": counts.reasoning}
    return fields


def stop_fields(
    finish: str | None, *, matched: Any, stops: list[str], called: bool
) -> dict[str, Any]:
    """`matched` is the stop string an upstream says it ended at; `called`, whether the answer holds
    tool calls. This wire's clients go by the reason, and some servers end calls with `stop` (M29).
    """
    if finish in ("stop", "tool_calls", "function_call"):
        finish = "tool_calls" if called else "stop"
    if finish == "stop" and isinstance(matched, str) and matched in stops:
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    reason = _STOP_REASONS.get(finish) if finish else None
    return {"stop_reason": reason, "stop_sequence": None}
