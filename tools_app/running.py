"""Runs a registered tool: one call of a model, and what the model is told came of it.

Whatever a tool does (refuse, hang, answer garbage or without an end) costs no more than its own
timeout and becomes a result that the model can read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from chat.errors import InvalidRequest, UpstreamError, UpstreamTimeout
from providers.emulation.schema import schema_of
from tools_app.http_calls import call_http
from tools_app.mcp_calls import call_mcp
from tools_app.models import Kind
from tools_app.results import ToolCall, ToolResult
from tools_app.snapshot import ToolFacts

logger = logging.getLogger(__name__)

MAX_ARGUMENTS = 1 << 20


class ArgumentsRefused(Exception):
    """What is wrong with a call's arguments, for the model to mend."""


async def run(
    tool: ToolFacts,
    arguments: str,
    *,
    call_id: str,
    request_id: str,
    session_id: str | None = None,
) -> ToolResult:
    """Runs one call with the arguments as the model wrote them, a JSON object. Raises nothing but
    CancelledError."""
    if tool.kind == Kind.CLIENT:
        return ToolResult("This tool is run by the caller, not by the gateway.", "not_runnable")
    if tool.problem is not None:
        logger.error("The tool %s cannot be run: %s.", tool.name, tool.problem)
        return ToolResult("The tool is not set up.", "not_configured")
    try:
        given = read_arguments(tool, arguments)
    except ArgumentsRefused as refused:
        return ToolResult(str(refused), "invalid_arguments")
    call = ToolCall(tool, given, call_id=call_id, request_id=request_id, session_id=session_id)
    return await _within_time(call)


async def _within_time(call: ToolCall) -> ToolResult:
    ask = call_mcp if call.tool.kind == Kind.MCP else call_http
    try:
        async with asyncio.timeout(call.tool.timeout_s):
            return await ask(call)
    except (TimeoutError, UpstreamTimeout):
        return ToolResult(
            f"The tool did not answer within {call.tool.timeout_s:g} seconds.", "timeout"
        )
    except UpstreamError as error:
        # Its words may tell what our network looks like from inside; one word of it does not.
        word = "not permitted" if error.kind == "outbound" else error.kind
        return ToolResult(f"The tool could not be asked ({word}).", error.kind)
    except Exception:  # an edge: a tool must not end the conversation that called it
        logger.exception("Running the tool %s failed.", call.tool.name)
        return ToolResult("The gateway failed to run the tool.", "failed")


def read_arguments(tool: ToolFacts, text: str) -> dict[str, Any]:
    """The arguments as an object that fits the tool's schema. Raises ArgumentsRefused."""
    if len(text) > MAX_ARGUMENTS:
        raise ArgumentsRefused("The tool was not called: its arguments are too large.")
    try:
        arguments = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise ArgumentsRefused(
            f"The tool was not called: its arguments are not JSON ({error})."
        ) from None
    if not isinstance(arguments, dict):
        raise ArgumentsRefused("The tool was not called: its arguments must be a JSON object.")
    try:
        problems = schema_of(dict(tool.parameters), param="parameters").problems(arguments)
    except InvalidRequest as error:
        raise ArgumentsRefused(f"The tool was not called. {error.message}") from None
    if problems:
        listed = "; ".join(map(str, problems))
        raise ArgumentsRefused(
            f"The tool was not called: its arguments do not fit its schema. {listed}"
        )
    return arguments
