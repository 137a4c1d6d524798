"""Registered tools that a request names instead of defining them: `"get_weather"`, or
`{"type": "gateway", "name": "get_weather"}`. They become definitions in the words of the request's
wire before anything else reads it.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson
from rest_framework.request import Request

from chat.errors import InvalidRequest
from chat.parsing import parse_object
from gateway_api.async_view import Parse, Parsed, parse_apart, read_json_body
from gateway_api.resources import require_tools
from keys.caller import Caller
from tools_app import registry
from tools_app.snapshot import ToolFacts

Form = Literal["chat", "responses", "anthropic"]
"""Three ways to define a tool; Ollama's is OpenAI's."""


async def read_with_tools(
    request: Request, parse: Parse[Parsed], *, caller: Caller, form: Form = "chat"
) -> Parsed:
    """`read_parsed` for a request whose tools may be names. One that names none is read once: a
    string among tools is what no wire's reader takes."""
    raw = await read_json_body(request)
    if b'"gateway"' in raw:
        raw = await with_definitions(raw, caller, form=form)
    try:
        return await parse_apart(raw, parse)
    except InvalidRequest as error:
        if not (error.param or "").startswith("tools["):
            raise
        defined = await with_definitions(raw, caller, form=form)
        if defined is raw:
            raise
    return await parse_apart(defined, parse)


async def with_definitions(raw: bytes, caller: Caller, *, form: Form) -> bytes:
    """The body with a definition for each name; itself where it has none. Raises InvalidRequest
    for the name of no tool that the caller may use."""
    body = await parse_apart(raw, parse_object)
    tools = body.get("tools")
    if not isinstance(tools, list) or not any(map(is_name, tools)):
        return raw
    body["tools"] = [
        await _defined(tool, f"tools[{at}]", caller, form=form) if is_name(tool) else tool
        for at, tool in enumerate(tools)
    ]
    return orjson.dumps(body)


def is_name(tool: Any) -> bool:
    """Whether a request names a tool there instead of defining it."""
    return isinstance(tool, str) or (isinstance(tool, dict) and tool.get("type") == "gateway")


async def _defined(tool: Any, place: str, caller: Caller, *, form: Form) -> dict[str, Any]:
    name = tool if isinstance(tool, str) else tool.get("name")
    if not isinstance(name, str):
        raise InvalidRequest(
            f"Missing required parameter: '{place}.name'.",
            param=f"{place}.name",
            code="missing_required_parameter",
        )
    require_tools()
    found = await registry.find(name, may_use=caller.may_use_tool)
    if found is None:
        raise InvalidRequest(
            f"There is no tool named {name[:100]!r} here.", param=place, code="tool_not_found"
        )
    return definition(found, form=form)


def definition(tool: ToolFacts, *, form: Form) -> dict[str, Any]:
    """A tool as a request defines it."""
    told: dict[str, Any] = {"name": tool.name}
    if tool.description:
        told["description"] = tool.description
    if form == "anthropic":
        return {**told, "input_schema": tool.parameters}
    told["parameters"] = tool.parameters
    if form == "responses":
        # There OpenAI takes a schema that is not said to be loose for a strict one.
        return {"type": "function", **told, "strict": False}
    return {"type": "function", "function": told}
