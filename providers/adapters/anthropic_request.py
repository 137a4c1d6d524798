"""An OpenAI chat completion request as an Anthropic `messages` request.

Every field is mapped, left out by name (`ChatRequest.dropped`, which the caller is told), or
refused; the table is the one in Anthropic's compatibility page, widened where its Messages API
(SDK 2.12.0) now takes what it once ignored.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from chat.errors import InvalidRequest
from chat.requests import ChatParams, ChatRequest
from providers.adapters.anthropic_content import cache_control
from providers.adapters.anthropic_format import wanted_schema
from providers.adapters.anthropic_messages import read_conversation
from providers.adapters.anthropic_models import ModelFacts
from providers.adapters.anthropic_thinking import Reasoning, plan_reasoning
from providers.adapters.anthropic_tools import plan_tools

_MAPPED = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "n",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "thinking",
        "response_format",
        "user",
        "safety_identifier",
        "service_tier",
        "prompt_cache_options",
        "functions",
        "modalities",
        "web_search_options",
    }
)
_HARMLESS_WHEN_FALSE = frozenset(
    {"logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "store"}
)
_OURS = frozenset({"metadata"})
"""The gateway's tags: they were never meant for a provider."""
_ANSWER_ROOM = 4096
_TIERS = {"auto": "auto", "default": "standard_only"}


class Payload(NamedTuple):
    body: dict[str, Any]
    must_call: bool = False
    """An answer without a tool call does not meet the caller's `tool_choice`."""


def build_payload(request: ChatRequest, *, model: str, facts: ModelFacts) -> Payload:
    """The body that goes upstream. Raises InvalidRequest naming the field that cannot be sent."""
    params, body, dropped = request.params, request.body, request.dropped
    _refuse_unsupported(params)
    _note_dropped(body, dropped)
    system, messages = read_conversation(body["messages"], dropped)
    tools = plan_tools(params, body, messages, facts=facts, dropped=dropped)
    reasoning = plan_reasoning(
        params, body, messages, facts=facts, forced=tools.forced, dropped=dropped
    )
    if tools.demand:
        system = [*system, {"type": "text", "text": tools.demand}]
    payload: dict[str, Any] = {
        "model": model,
        "max_tokens": _max_tokens(params, facts=facts, reasoning=reasoning),
        "messages": messages,
    }
    if system:
        payload["system"] = system
    if request.stream:
        payload["stream"] = True
    payload.update(tools.fields())
    payload.update(_sampling(params, body, facts=facts, reasoning=reasoning, dropped=dropped))
    payload.update(_output(reasoning, wanted_schema(params)))
    payload.update(_identity(params, body, dropped))
    if stop := _stop_sequences(params.stop, dropped):
        payload["stop_sequences"] = stop
    return Payload(payload, must_call=tools.demand is not None)


def _max_tokens(params: ChatParams, *, facts: ModelFacts, reasoning: Reasoning) -> int:
    """The caller's limit; else the model's, with room above a thinking budget the caller set."""
    for asked in (params.max_completion_tokens, params.max_tokens):
        if asked is not None:
            return asked
    budget = (reasoning.thinking or {}).get("budget_tokens")
    if isinstance(budget, int) and budget >= facts.max_tokens:
        return budget + _ANSWER_ROOM
    return facts.max_tokens


def _refuse_unsupported(params: ChatParams) -> None:
    if params.n is not None and params.n > 1:
        raise _refusal("n", "This model gives one answer per request: `n` must be 1.")
    if "audio" in (params.modalities or ()):
        raise _refusal("modalities", "This model does not speak: `modalities` must be text.")
    if params.functions:
        raise _refusal("functions", "`functions` cannot be sent to this model; use `tools`.")
    if params.web_search_options is not None:
        raise _refusal("web_search_options", "This model has no web search of OpenAI's kind.")


def _refusal(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="unsupported_value")


def _note_dropped(body: dict[str, Any], dropped: set[str]) -> None:
    """Names every field that does not go upstream in any form."""
    for name in body.keys() - _MAPPED - _OURS:
        if body[name] is not None and (body[name] or name not in _HARMLESS_WHEN_FALSE):
            dropped.add(name)


def _sampling(
    params: ChatParams,
    body: dict[str, Any],
    *,
    facts: ModelFacts,
    reasoning: Reasoning,
    dropped: set[str],
) -> dict[str, Any]:
    """Temperature and its kin, where the model takes them: clamped to 0-1, and with thinking only
    what Anthropic allows beside it. Whatever is changed or left out is told."""
    names = ("temperature", "top_p", "top_k")
    asked = {name: body[name] for name in names if body.get(name) is not None}
    sent: dict[str, Any] = dict(asked) if facts.sampling else {}
    if "temperature" in sent:
        sent["temperature"] = min(max(params.temperature or 0.0, 0.0), 1.0)
    if reasoning.thinks:
        sent.pop("top_k", None)
        if sent.get("temperature") != 1:
            sent.pop("temperature", None)
        if sent.get("top_p", 1) < 0.95:
            sent.pop("top_p")
    if not facts.temperature_with_top_p and "temperature" in sent:
        sent.pop("top_p", None)
    dropped.update(name for name, value in asked.items() if sent.get(name) != value)
    return sent


def _output(reasoning: Reasoning, schema: dict[str, Any] | None) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    config: dict[str, Any] = {}
    if reasoning.thinking is not None:
        fields["thinking"] = reasoning.thinking
    if reasoning.effort is not None:
        config["effort"] = reasoning.effort
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": schema}
    if config:
        fields["output_config"] = config
    return fields


def _identity(params: ChatParams, body: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    user = params.safety_identifier or params.user
    if user:
        # Anthropic asks for an opaque id; callers send names and addresses.
        fields["metadata"] = {"user_id": hashlib.sha256(user.encode()).hexdigest()}
    if params.service_tier in _TIERS:
        fields["service_tier"] = _TIERS[params.service_tier]
    elif params.service_tier is not None:
        dropped.add("service_tier")
    options = params.prompt_cache_options
    if options is not None and options.get("mode", "implicit") == "implicit":
        fields["cache_control"] = cache_control(options, "prompt_cache_options", dropped)
    return fields


def _stop_sequences(stop: str | list[str] | None, dropped: set[str]) -> list[str]:
    """Stop strings without the blank ones, which Anthropic refuses."""
    asked = [stop] if isinstance(stop, str) else stop or []
    kept = [each for each in asked if each.strip()]
    if len(kept) < len(asked):
        dropped.add("stop")
    return kept
