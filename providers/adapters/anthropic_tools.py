"""Tools and the choice among them, in Anthropic's terms."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from chat.errors import InvalidRequest
from chat.requests import ChatParams
from providers.adapters.anthropic_content import mark_last
from providers.adapters.anthropic_models import ModelFacts

_SERVER_TOOL = re.compile(r"[a-z0-9_]+_20\d{6}")
"""Anthropic's own tools carry their date: `web_search_20250305`. They run upstream."""
_ANY_INPUT = {"type": "object", "properties": {}}


class ToolPlan(NamedTuple):
    tools: list[dict[str, Any]]
    choice: dict[str, Any] | None = None
    demand: str | None = None
    """Words that demand a call of a model that cannot be forced to make one."""

    @property
    def forced(self) -> bool:
        return self.choice is not None and self.choice["type"] in ("any", "tool")

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.tools:
            fields["tools"] = self.tools
        if self.choice is not None:
            fields["tool_choice"] = self.choice
        return fields


def plan_tools(
    params: ChatParams,
    body: dict[str, Any],
    messages: list[dict[str, Any]],
    *,
    facts: ModelFacts,
    dropped: set[str],
) -> ToolPlan:
    """What may be called. `messages` are Anthropic's. Raises InvalidRequest for a tool, or a
    choice, that cannot be sent."""
    tools = [
        _tool(tool, f"tools[{at}]", facts=facts, dropped=dropped)
        for at, tool in enumerate(body.get("tools") or ())
    ]
    choice = params.tool_choice
    if not tools:
        if choice not in (None, "auto", "none"):
            raise InvalidRequest("`tool_choice` needs `tools` to choose from.", param="tool_choice")
        return _tools_of_the_past(messages)
    mode, tools = _read_choice(choice, tools)
    demand = None
    if mode["type"] in ("any", "tool") and not facts.forced_tools:
        mode, tools, demand = _demand(mode, tools)
    if params.parallel_tool_calls is False and mode["type"] != "none":
        mode["disable_parallel_tool_use"] = True
    elif choice is None:
        return ToolPlan(tools)
    return ToolPlan(tools, mode, demand=demand)


def _tool(
    tool: dict[str, Any], param: str, *, facts: ModelFacts, dropped: set[str]
) -> dict[str, Any]:
    kind = tool.get("type") or "function"
    if kind != "function":
        if _SERVER_TOOL.fullmatch(kind):
            return tool
        raise InvalidRequest(
            f"Tools of the type '{kind[:64]}' cannot be sent to this model.",
            param=f"{param}.type",
            code="unsupported_value",
        )
    function = tool["function"]
    sent: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        sent["description"] = function["description"]
    sent["input_schema"] = function.get("parameters") or _ANY_INPUT
    if function.get("strict"):
        if facts.structured_output:
            sent["strict"] = True
        else:
            dropped.add("tools.function.strict")
    mark_last([sent], tool, dropped)
    mark_last([sent], function, dropped)
    return sent


def _read_choice(
    choice: str | dict[str, Any] | None, tools: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Anthropic's choice, and the tools it is made from."""
    if choice is None or choice == "auto":
        return {"type": "auto"}, tools
    if choice == "none":
        return {"type": "none"}, tools
    if choice == "required":
        return {"type": "any"}, tools
    if isinstance(choice, dict):
        if choice.get("type") == "function":
            name = _name_of(choice, "tool_choice.function.name")
            _refuse_missing({name}, tools, "tool_choice.function.name")
            return {"type": "tool", "name": name}, tools
        if choice.get("type") == "allowed_tools":
            return _read_allowed(choice, tools)
    raise InvalidRequest(
        "`tool_choice` is one of auto, none, required, a function or allowed tools.",
        param="tool_choice",
        code="unsupported_value",
    )


def _read_allowed(
    choice: dict[str, Any], tools: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Anthropic has no word for it: only the allowed tools are offered."""
    allowed = choice.get("allowed_tools")
    listed = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(allowed, dict) or not isinstance(listed, list) or not listed:
        raise InvalidRequest(
            "`tool_choice.allowed_tools` must name tools.",
            param="tool_choice.allowed_tools",
            code="invalid_value",
        )
    place = "tool_choice.allowed_tools.tools"
    names = {_name_of(each, f"{place}[{at}]") for at, each in enumerate(listed)}
    _refuse_missing(names, tools, place)
    mode = {"type": "any" if allowed.get("mode") == "required" else "auto"}
    return mode, [tool for tool in tools if tool.get("name") in names]


def _demand(
    mode: dict[str, Any], tools: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """A forced choice in words: only what may be called is offered, and the answer is checked."""
    if mode["type"] == "any":
        return {"type": "auto"}, tools, "You must answer by calling one of the tools."
    named = [tool for tool in tools if tool.get("name") == mode["name"]]
    return {"type": "auto"}, named, f"You must answer by calling the tool `{mode['name']}`."


def _name_of(named: Any, param: str) -> str:
    function = named.get("function") if isinstance(named, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest("A function's name is missing.", param=param, code="invalid_value")
    return name


def _refuse_missing(names: set[str], tools: list[dict[str, Any]], param: str) -> None:
    missing = names - {tool.get("name") for tool in tools}
    if missing:
        raise InvalidRequest(
            f"The tool '{min(missing)[:64]}' is not among `tools`.",
            param=param,
            code="invalid_value",
        )


def _tools_of_the_past(messages: list[dict[str, Any]]) -> ToolPlan:
    """Anthropic refuses a history with tool calls unless the tools are defined; a caller that is
    done with tools offers none. They are named from the history and may not be called."""
    names = {
        block["name"]: None
        for message in messages
        for block in message["content"]
        if block["type"] == "tool_use"
    }
    if not names:
        return ToolPlan([])
    tools = [{"name": name, "input_schema": _ANY_INPUT} for name in names]
    return ToolPlan(tools, {"type": "none"})
