"""Anthropic's token counts and stop reasons in OpenAI's words."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from chat.errors import ToolChoiceNotMet
from chat.types import Count, FinishReason, TokensDetails, Usage

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
PAUSED = "pause_turn"
"""A server tool's turn that the caller may go on with: told beside `stop` as
`native_finish_reason`, because OpenAI has no word for it."""


class OutputDetails(Struct, gc=False):
    thinking_tokens: Count | None = None


class Tokens(Struct, gc=False):
    """`usage` of a message, or of a `message_delta`, where every count is cumulative."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    output_tokens_details: OutputDetails | None = None

    def grow(self, later: Tokens) -> None:
        """Takes over a later report. A count that is absent, or smaller (some servers report zeros
        at one end of the stream), says nothing."""
        self.input_tokens = _larger(self.input_tokens, later.input_tokens)
        self.output_tokens = _larger(self.output_tokens, later.output_tokens)
        self.cache_read_input_tokens = _larger(
            self.cache_read_input_tokens, later.cache_read_input_tokens
        )
        self.cache_creation_input_tokens = _larger(
            self.cache_creation_input_tokens, later.cache_creation_input_tokens
        )
        self.output_tokens_details = later.output_tokens_details or self.output_tokens_details

    def usage(self) -> Usage:
        """OpenAI's counts: the prompt includes what was read from and written to the cache."""
        read = self.cache_read_input_tokens or 0
        written = self.cache_creation_input_tokens or 0
        prompt = (self.input_tokens or 0) + read + written
        output = self.output_tokens or 0
        details = self.output_tokens_details
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=output,
            total_tokens=prompt + output,
            prompt_tokens_details=TokensDetails(cached_tokens=read, cache_write_tokens=written),
            completion_tokens_details=TokensDetails(reasoning_tokens=details.thinking_tokens)
            if details is not None
            else None,
        )


def _larger(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def finish_of(stop_reason: str, *, called: bool) -> FinishReason:
    """OpenAI's reason. A reason we do not know ended an answer all the same: `stop`. `called` says
    whether the caller sees tool calls: then it is `tool_calls` (M29), without any it cannot be."""
    reason = _FINISH.get(stop_reason, "stop")
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if called else "stop"
    return reason


def refuse_uncalled(tokens: Tokens | None) -> ToolChoiceNotMet:
    """For an answer in words where the caller demanded a call of a model that cannot be forced.
    It is billed all the same."""
    refused = ToolChoiceNotMet(
        "The model did not call a tool, which `tool_choice` demands.", param="tool_choice"
    )
    refused.usage = tokens.usage() if tokens is not None else None
    return refused


def refusal_text(stop_details: Any) -> str:
    """What `message.refusal` says: the upstream's explanation where it gives one."""
    told = stop_details.get("explanation") if isinstance(stop_details, dict) else None
    return told if isinstance(told, str) and told else "The model declined to answer."
