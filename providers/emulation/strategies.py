"""How an answer is brought into the format that is asked for, by flags alone.

| asked for     | native              | forced tool               | JSON mode   | prompt |
|---------------|---------------------|---------------------------|-------------|--------|
| `json_schema` | `structured_output` | `tools` and `tool_choice` | `json_mode` | else   |
| `json_object` | `json_mode`         |                           |             | else   |
"""

from __future__ import annotations

from typing import Any, Literal

from chat.errors import InvalidRequest
from chat.requests import ChatParams, ChatRequest
from providers.capabilities import Capabilities

Strategy = Literal["native", "forced_tool", "json_mode", "prompt", "left_out"]
"""`left_out`: a tool call is due, so that there is no answer to have a format."""
SCHEMA_PARAM = "response_format.json_schema.schema"
_FORMATS = ("json_schema", "json_object")


def wants_format(request: ChatRequest, capabilities: Capabilities) -> bool:
    """Whether there is anything to do for the format of an answer. What only an upstream on the
    caller's own wire can be asked for is left to it."""
    wanted = request.params.response_format
    return wanted is not None and wanted.type in _FORMATS and request.native_only is None


def strategy_for(request: ChatRequest, capabilities: Capabilities) -> Strategy:
    """The first way there is. Raises InvalidRequest for a schema that is no object."""
    params = request.params
    if _is_native(params, capabilities):
        return "native"
    if _call_is_due(params):
        return "left_out"
    if offers_calls(params) and not capabilities.tools:
        return "prompt"
    if wants_schema(params) and not _wants_object(params):
        return "prompt"  # tools and JSON mode give objects
    if wants_schema(params) and _can_be_forced(request, capabilities):
        return "forced_tool"
    return "json_mode" if wants_schema(params) and capabilities.json_mode else "prompt"


def wants_schema(params: ChatParams) -> bool:
    return params.response_format is not None and params.response_format.type == "json_schema"


def schema_asked(params: ChatParams) -> dict[str, Any]:
    """The schema of the answer. Raises InvalidRequest where it is none."""
    wanted = params.response_format
    schema = (wanted.json_schema or {}).get("schema") if wanted is not None else None
    if not isinstance(schema, dict):
        raise InvalidRequest(
            f"`{SCHEMA_PARAM}` must be a JSON Schema.", param=SCHEMA_PARAM, code="invalid_type"
        )
    return schema


def _is_native(params: ChatParams, capabilities: Capabilities) -> bool:
    """Whoever writes tool calls as text cannot be held to JSON meanwhile."""
    if offers_calls(params) and not capabilities.tools:
        return False
    return capabilities.structured_output if wants_schema(params) else capabilities.json_mode


def offers_calls(params: ChatParams) -> bool:
    """Whether the answer may be a call of the caller's tools, or functions as they once were."""
    return bool(params.tools or params.functions)


def _call_is_due(params: ChatParams) -> bool:
    if params.tools:
        return params.tool_choice not in (None, "auto", "none")
    return isinstance(params.function_call, dict)


def _wants_object(params: ChatParams) -> bool:
    return schema_asked(params).get("type") == "object"


def _can_be_forced(request: ChatRequest, capabilities: Capabilities) -> bool:
    """A model that must call does not think before it; tools do not go with functions."""
    params = request.params
    if params.reasoning_effort not in (None, "none") or request.body.get("thinking"):
        return False
    return capabilities.tools and capabilities.tool_choice and not params.functions
