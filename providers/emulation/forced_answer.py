"""A tool that a model is made to call, whose arguments are the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from chat.requests import ChatRequest

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class AnswerTool:
    name: str

    def unwrap(self, choice: dict[str, Any]) -> None:
        """Puts a call of this tool in the text's place, unless others are called: then the turn is
        theirs."""
        message = choice["message"]
        calls = message.get("tool_calls") or []
        ours = [call for call in calls if _called(call) == self.name]
        if not ours:
            return
        others = [call for call in calls if _called(call) != self.name]
        if others:
            message["tool_calls"] = others
            return
        del message["tool_calls"]
        message["content"] = ours[0]["function"]["arguments"]
        if choice.get("finish_reason") == "tool_calls":
            choice["finish_reason"] = "stop"


def offer_answer_tool(
    request: ChatRequest, schema: dict[str, Any]
) -> tuple[AnswerTool, dict[str, Any]]:
    """The tool, and the fields that have it called unless one of the caller's is."""
    wanted = request.body["response_format"]["json_schema"]
    tools = list(request.body.get("tools") or ())
    tool = AnswerTool(_free_name(wanted.get("name"), {_offered(each) for each in tools}))
    function = {
        "name": tool.name,
        "description": _described(wanted.get("description")),
        "parameters": schema,
    }
    may_call = tools and request.params.tool_choice != "none"
    choice = "required" if may_call else {"type": "function", "function": {"name": tool.name}}
    offered = [*tools, {"type": "function", "function": function}]
    return tool, {"tools": offered, "tool_choice": choice}


def _described(description: Any) -> str:
    if isinstance(description, str) and description:
        return f"Gives the final answer: {description}"
    return "Gives the final answer."


def _free_name(wanted: Any, taken: set[Any]) -> str:
    name = _UNFIT.sub("_", wanted)[:_MAX_NAME] if isinstance(wanted, str) else ""
    names = chain([name or "answer"], (f"answer_{number}" for number in count(1)))
    return next(each for each in names if each not in taken)


def _offered(tool: dict[str, Any]) -> Any:
    return (tool.get("function") or {}).get("name")


def _called(call: dict[str, Any]) -> Any:
    return (call.get("function") or {}).get("name")
