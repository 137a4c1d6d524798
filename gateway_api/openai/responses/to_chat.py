"""A Responses request as a chat completion request.

What a chat completion has another word for is said in it; what it cannot say at all is refused; a
mere tuning knob it has no word for is left out, and the caller told.
"""

from __future__ import annotations

from typing import Any

from chat.errors import InvalidRequest
from gateway_api.openai.responses.items import Item
from gateway_api.openai.responses.messages import Untranslatable, messages_from
from gateway_api.openai.responses.params import ResponsesParams

_SAME = (
    "moderation",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_p",
    "user",
)
_OURS = frozenset(
    (
        *("background", "conversation", "include", "input", "instructions", "max_output_tokens"),
        *("metadata", "model", "previous_response_id", "prompt", "reasoning", "store", "stream"),
        *("text", "tool_choice", "tools", "top_logprobs"),
    )
)
_CHOICES = ("none", "auto", "required")
LOGPROBS = "message.output_text.logprobs"


def chat_body(params: ResponsesParams, items: list[Item], places: list[str]) -> dict[str, Any]:
    """The body of a chat completion request over these items. Raises InvalidRequest for what is
    malformed, Untranslatable for what a chat completion cannot say."""
    messages = messages_from(items, places)
    if params.prompt is not None:
        raise Untranslatable(
            "Prompt templates are kept by providers that have them.", param="prompt"
        )
    if params.instructions:
        messages.insert(0, {"role": "system", "content": params.instructions})
    if not messages:
        raise (Untranslatable if params.input is None else InvalidRequest)(
            "'input' must not be empty.", param="input", code="invalid_value"
        )
    body: dict[str, Any] = {"model": params.model or "", "messages": messages}
    body |= {name: value for name in _SAME if (value := getattr(params, name)) is not None}
    if params.max_output_tokens is not None:
        # The name every server knows; the newer one is ignored or refused by many.
        body["max_tokens"] = params.max_output_tokens
    if params.reasoning is not None and params.reasoning.effort is not None:
        body["reasoning_effort"] = params.reasoning.effort
    if params.top_logprobs or LOGPROBS in (params.include or ()):
        body["logprobs"] = True
    if params.top_logprobs:
        body["top_logprobs"] = params.top_logprobs
    if params.stream:
        body["stream"] = True
    _add_text(body, params)
    _add_tools(body, params)
    return body


def left_out(params: ResponsesParams, body: dict[str, Any]) -> set[str]:
    """The fields of a request that its translation does not carry."""
    told = {
        name
        for name, value in body.items()
        if value is not None and name not in _OURS and name not in _SAME
    }
    if params.truncation == "disabled":
        told.discard("truncation")
    return told


def _add_text(body: dict[str, Any], params: ResponsesParams) -> None:
    text = params.text
    if text is None:
        return
    if text.verbosity is not None:
        body["verbosity"] = text.verbosity
    wanted = text.format
    match (wanted or {}).get("type", "text" if not wanted else None):
        case "text":
            return
        case "json_object":
            body["response_format"] = {"type": "json_object"}
        case "json_schema":
            assert wanted is not None
            if not isinstance(wanted.get("schema"), dict):
                raise InvalidRequest(
                    "Invalid value for 'text.format.schema': expected an object.",
                    param="text.format.schema",
                    code="invalid_type",
                )
            schema = {
                name: value
                for name, value in wanted.items()
                if name != "type" and value is not None
            }
            schema.setdefault("name", "answer")
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        case kind:
            raise Untranslatable(
                f"'text.format.type' must be text, json_object or json_schema, not "
                f"{str(kind)[:60]!r}.",
                param="text.format.type",
            )


def _add_tools(body: dict[str, Any], params: ResponsesParams) -> None:
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(params.tools or ())]
    if tools:
        body["tools"] = tools
    else:
        body.pop("parallel_tool_calls", None)
    if params.tool_choice is not None:
        offered = {tool["function"]["name"] for tool in tools}
        choice = _tool_choice(params.tool_choice, offered)
        if tools:
            body["tool_choice"] = choice


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind is None:
        raise InvalidRequest(
            f"Missing required parameter: '{place}.type'.",
            param=f"{place}.type",
            code="missing_required_parameter",
        )
    if kind != "function":
        raise Untranslatable(
            f"Tools of the type '{str(kind)[:60]}' run at a provider that has the Responses API "
            "itself; this model's provider has function tools only.",
            param=f"{place}.type",
        )
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(
            f"Missing required parameter: '{place}.name'.",
            param=f"{place}.name",
            code="missing_required_parameter",
        )
    for field, type_ in (("parameters", dict), ("description", str), ("strict", bool)):
        if not isinstance(tool.get(field), type_ | None):
            raise InvalidRequest(
                f"Invalid value for '{place}.{field}'.",
                param=f"{place}.{field}",
                code="invalid_type",
            )
    known = ("name", "description", "parameters", "strict")
    function = {field: tool[field] for field in known if tool.get(field) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any], offered: set[str]) -> Any:
    if isinstance(choice, str):
        if choice not in _CHOICES:
            raise InvalidRequest(
                f"'tool_choice' must be one of {', '.join(_CHOICES)}, or an object.",
                param="tool_choice",
                code="invalid_value",
            )
        if choice == "required" and not offered:
            raise InvalidRequest(
                "'tool_choice' requires a tool, and 'tools' offers none.", param="tool_choice"
            )
        return choice
    match choice.get("type"):
        case "function":
            return _named(choice, offered)
        case "allowed_tools":
            tools, mode = choice.get("tools"), choice.get("mode", "auto")
            if not isinstance(tools, list) or mode not in ("auto", "required"):
                raise InvalidRequest(
                    "'tool_choice' must have a list of 'tools' and a 'mode' of auto or required.",
                    param="tool_choice",
                )
            named = [_named(tool, offered) for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
        case kind:
            raise Untranslatable(
                f"A 'tool_choice' of the type '{str(kind)[:60]}' needs a provider that has the "
                "Responses API itself.",
                param="tool_choice",
            )


def _named(choice: Any, offered: set[str]) -> dict[str, Any]:
    name = choice.get("name") if isinstance(choice, dict) else None
    if not isinstance(name, str) or name not in offered:
        raise InvalidRequest(
            f"'tool_choice' names a tool that 'tools' does not offer: {str(name)[:100]!r}.",
            param="tool_choice",
            code="invalid_value",
        )
    return {"type": "function", "function": {"name": name}}
