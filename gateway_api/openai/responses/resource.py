"""The Response object of a translated answer: shape as in openai 3.54.0,
`types/responses/response.py`."""

from __future__ import annotations

import time
from typing import Any

from chat.errors import GatewayError, RateLimited, UpstreamRateLimited, UpstreamRejected
from chat.types import Usage, count_tokens
from gateway_api.openai.responses.params import ResponsesParams

_ECHOED = ("max_output_tokens", "max_tool_calls", "safety_identifier", "user", "prompt_cache_key")


def response_object(
    params: ResponsesParams, *, response_id: str, model: str, status: str
) -> dict[str, Any]:
    """A response that has no output yet."""
    reasoning, text = params.reasoning, params.text
    response: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": params.background is True,
        "error": None,
        "incomplete_details": None,
        "instructions": params.instructions,
        "metadata": params.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": params.parallel_tool_calls is not False,
        "previous_response_id": params.previous_response_id or None,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "service_tier": params.service_tier or "auto",
        "store": params.stored,
        "temperature": 1.0 if params.temperature is None else params.temperature,
        "text": {"format": (text.format if text else None) or {"type": "text"}},
        "tool_choice": params.tool_choice or "auto",
        "tools": [_tool(tool) for tool in params.tools or ()],
        "top_logprobs": params.top_logprobs or 0,
        "top_p": 1.0 if params.top_p is None else params.top_p,
        "truncation": params.truncation or "disabled",
        "usage": None,
        **{name: getattr(params, name) for name in _ECHOED},
    }
    if text and text.verbosity:
        response["text"]["verbosity"] = text.verbosity
    if params.conversation_id:
        response["conversation"] = {"id": params.conversation_id}
    return response


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def usage_object(usage: Usage | None) -> dict[str, Any] | None:
    """Counts in the Responses API's words."""
    if usage is None:
        return None
    counts = count_tokens(usage)
    return {
        "input_tokens": counts.input,
        "input_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.cache_write,
        },
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    }


def failed(response: dict[str, Any], error: GatewayError) -> dict[str, Any]:
    """The response, failed: its codes are the API's own, of which few fit us."""
    code = "server_error"
    if isinstance(error, RateLimited | UpstreamRateLimited):
        code = "rate_limit_exceeded"
    elif isinstance(error, UpstreamRejected) or error.http_status == 400:
        code = "invalid_prompt"
    told = {"code": code, "message": error.message, "param": error.param}
    return {**response, "status": "failed", "error": told}
