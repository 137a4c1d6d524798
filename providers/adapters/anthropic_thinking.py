"""How hard a model is to think: OpenAI's `reasoning_effort` in the terms of each generation."""

from __future__ import annotations

from typing import Any, NamedTuple

from chat.errors import InvalidRequest
from chat.requests import ChatParams
from providers.adapters.anthropic_models import ModelFacts

_LEVELS = ("low", "medium", "high", "xhigh", "max")
_EFFORTS = {"minimal": "low", **{level: level for level in _LEVELS}}
_BUDGETS = {"low": 1024, "medium": 4096, "high": 16_384, "xhigh": 32_000, "max": 32_000}
_LEAST_BUDGET = 1024


class Reasoning(NamedTuple):
    thinking: dict[str, Any] | None = None
    effort: str | None = None

    @property
    def thinks(self) -> bool:
        """Whether this request turns thinking on."""
        return self.thinking is not None and self.thinking.get("type") in ("enabled", "adaptive")


def plan_reasoning(
    params: ChatParams,
    body: dict[str, Any],
    messages: list[dict[str, Any]],
    *,
    facts: ModelFacts,
    forced: bool,
    dropped: set[str],
) -> Reasoning:
    """The thinking and effort to ask for. `messages` are Anthropic's; `forced` says that a tool
    must be called. A caller's own `thinking` object goes as it is, as on Anthropic's own
    OpenAI-compatible endpoint."""
    thinking = body.get("thinking")
    if thinking is not None and not isinstance(thinking, dict):
        raise InvalidRequest("`thinking` must be an object.", param="thinking", code="invalid_type")
    asked = params.reasoning_effort
    if asked is None:
        return Reasoning(thinking)
    if asked == "none":
        return Reasoning(thinking or _off(facts, dropped), _least_effort(facts, thinking))
    if asked not in _EFFORTS:
        raise InvalidRequest(
            f"`reasoning_effort` is one of none, {', '.join(_EFFORTS)}.",
            param="reasoning_effort",
            code="invalid_value",
        )
    level = _EFFORTS[asked]
    if thinking is None and facts.thinking == "budget":
        may_think = not forced and not _continues_unthinking(messages)
        thinking = _with_budget(level, params, facts=facts) if may_think else None
        if thinking is None:
            dropped.add("reasoning_effort")
        return Reasoning(thinking)
    if not facts.efforts:
        dropped.add("reasoning_effort")
        return Reasoning(thinking)
    effort = _nearest(level, facts.efforts)
    if effort != level:
        dropped.add("reasoning_effort")
    return Reasoning(thinking or {"type": "adaptive"}, effort)


def _off(facts: ModelFacts, dropped: set[str]) -> dict[str, Any] | None:
    if facts.thinking == "none":
        return None
    if facts.thinking_off is None:
        dropped.add("reasoning_effort")  # it cannot stop thinking: the least effort is the most
        return None
    return {"type": facts.thinking_off}


def _least_effort(facts: ModelFacts, thinking: dict[str, Any] | None) -> str | None:
    cannot_stop = thinking is None and facts.thinking_off is None
    return facts.efforts[0] if cannot_stop and facts.efforts else None


def _with_budget(level: str, params: ChatParams, *, facts: ModelFacts) -> dict[str, Any] | None:
    """A budget leaves half of the limit for the answer; None where no budget fits below it."""
    limit = params.max_completion_tokens or params.max_tokens or facts.max_tokens
    if limit <= _LEAST_BUDGET:
        return None
    budget = min(_BUDGETS[level], max(_LEAST_BUDGET, limit // 2))
    return {"type": "enabled", "budget_tokens": budget}


def _continues_unthinking(messages: list[dict[str, Any]]) -> bool:
    """Whether the request goes on with a tool turn that began without thinking (its blocks were
    not sent back, or it came from elsewhere): models with a budget refuse to begin in its middle.
    """
    if len(messages) < 2 or messages[-1]["content"][0]["type"] != "tool_result":
        return False
    return messages[-2]["content"][0]["type"] not in ("thinking", "redacted_thinking")


def _nearest(level: str, offered: tuple[str, ...]) -> str:
    """The strongest offered level that is not above the one asked for."""
    rank = _LEVELS.index(level)
    fitting = [each for each in offered if each in _LEVELS and _LEVELS.index(each) <= rank]
    return fitting[-1] if fitting else offered[0]
