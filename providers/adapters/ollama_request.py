"""A chat completion request as Ollama's `/api/chat` takes it.

Fields follow Ollama's `docs/api.md` and the types of its Python client 0.6.3. It knows no
`tool_choice`: it is imitated here, by the tools that are offered and by instruction, and said so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chat.errors import InvalidRequest
from chat.requests import ChatParams, ChatRequest, Message
from providers.adapters.base import Endpoint
from providers.adapters.ollama_messages import Images, ollama_messages, unsupported
from providers.emulation.tool_choice import ToolPolicy, read_offer

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "top_k": "top_k",
    "min_p": "min_p",
}
"""Fields that are Ollama `options` of another or the same name. The last two are no fields of
OpenAI's, but mean the same on every server that has them."""
_NATIVE = ("keep_alive", "think")
"""Ollama's own fields, which a caller or the provider's row may give beside OpenAI's."""
_TAKEN = frozenset(
    {
        "frequency_penalty",
        "keep_alive",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "min_p",
        "model",
        "n",
        "options",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "think",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)
_REFUSED = ("audio", "function_call", "functions", "web_search_options")
_THINK: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_CLAMPED_EFFORTS = frozenset({"minimal", "xhigh", "max"})


ANY_ANSWER = ToolPolicy()


def chat_payload(
    request: ChatRequest, endpoint: Endpoint, *, defaults: Mapping[str, Any], images: Images
) -> tuple[dict[str, Any], ToolPolicy]:
    """The body for `/api/chat`, and what must be seen to when the answer comes. Raises
    InvalidRequest for what Ollama cannot be asked, naming the field."""
    _refuse(request)
    params, body = request.params, request.body
    tools, policy, instructions = _tools(request)
    payload: dict[str, Any] = {"model": endpoint.model, "stream": request.stream}
    if tools:
        payload["tools"] = tools
    if (answer_format := _format(params, instructions)) is not None:
        payload["format"] = answer_format
    payload["messages"] = ollama_messages(request, images, instructions)
    if options := _options(request, defaults):
        payload["options"] = options
    for name in _NATIVE:
        if name in defaults:
            payload[name] = defaults[name]
    if (think := _think(request, thinks=endpoint.capabilities.reasoning)) is not None:
        payload["think"] = think
    for name in _NATIVE:
        if body.get(name) is not None:
            payload[name] = body[name]
    if params.logprobs:
        payload["logprobs"] = True
        if params.top_logprobs is not None:
            payload["top_logprobs"] = params.top_logprobs
    if not body.keys() <= _TAKEN:
        lost = body.keys() - _TAKEN
        request.dropped.update(name for name in lost if body[name] is not None)
    return payload, policy


def _refuse(request: ChatRequest) -> None:
    params = request.params
    for name in _REFUSED:
        if request.body.get(name) is not None:
            raise unsupported(f"This provider has no `{name}`.", name)
    if params.n is not None and params.n > 1:
        raise unsupported("This provider gives one choice only: `n` must be 1.", "n")
    if params.modalities and params.modalities != ["text"]:
        raise unsupported("This provider answers in text only.", "modalities")


# --- options ------------------------------------------------------------------------------------


def _options(request: ChatRequest, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The row's options, then OpenAI's fields, then the caller's own `options`."""
    options = dict(defaults["options"]) if isinstance(defaults.get("options"), dict) else {}
    body = request.body
    for name, option in _OPTIONS.items():
        if body.get(name) is not None:
            options[option] = body[name]
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    if request.max_output_tokens is not None:
        options["num_predict"] = request.max_output_tokens
    own = body.get("options")
    if own is not None:
        if not isinstance(own, dict):
            raise InvalidRequest("`options` must be an object.", param="options")
        options.update(own)
    return options


def _think(request: ChatRequest, *, thinks: bool) -> bool | str | None:
    effort = request.params.reasoning_effort
    if effort is None:
        return None
    if effort not in _THINK:
        raise InvalidRequest(
            f"`reasoning_effort` must be one of {', '.join(_THINK)}.",
            param="reasoning_effort",
            code="invalid_value",
        )
    if effort in _CLAMPED_EFFORTS or not thinks and effort != "none":
        request.dropped.add("reasoning_effort")
    return _THINK[effort] if thinks else None  # a model that cannot think answers 400 to it


# --- the format of the answer -------------------------------------------------------------------


def _format(params: ChatParams, instructions: list[str]) -> dict[str, Any] | str | None:
    wanted = params.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_schema":
        schema = (wanted.json_schema or {}).get("schema")
        if isinstance(schema, dict):
            return schema
        raise InvalidRequest(
            "A response format of type `json_schema` needs `json_schema.schema`.",
            param="response_format.json_schema.schema",
        )
    if wanted.type == "json_object":
        # A model that is held to JSON and not told of it writes white space without end.
        if not any("json" in text.lower() for text in _all_texts(params.messages)):
            instructions.append("Answer with one JSON object and nothing else.")
        return "json"
    raise unsupported(
        f"This provider has no response format `{wanted.type[:64]}`.", "response_format.type"
    )


def _all_texts(messages: list[Message]) -> Iterator[str]:
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part.text, str):
                yield part.text


# --- tools --------------------------------------------------------------------------------------


def _tools(request: ChatRequest) -> tuple[list[dict[str, Any]], ToolPolicy, list[str]]:
    """The tools to offer, what the answer owes, and what the model is told about it."""
    offer = read_offer(request)
    if offer.is_strict:
        request.dropped.add("tools.function.strict")
    if offer.policy.single:
        request.emulated.add("parallel_tools")
    tools = [{"type": "function", "function": function} for function in offer.tools.values()]
    if offer.instruction is None:
        return tools, offer.policy, []
    request.emulated.add("tool_choice")
    return tools, offer.policy, [offer.instruction]
