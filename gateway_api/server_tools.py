"""Which of a request's tools the gateway runs itself."""

from __future__ import annotations

from chat.errors import InvalidRequest
from chat.requests import ChatRequest, FunctionDefinition
from gateway_api.exchange import Call
from gateway_api.tool_runs import Run, ServerTools
from keys.caller import Caller
from tools_app import registry, running
from tools_app.models import Kind
from tools_app.results import ToolResult
from tools_app.snapshot import ToolFacts


async def server_tools(call: Call) -> ServerTools | None:
    """The registered tools of the kinds http and mcp that the request offers and the caller may
    use; None where there is none. The request is then one whose every turn has to be readable
    here: it is not passed through. Raises GatewayError for what cannot be said so."""
    request = call.request
    assert isinstance(request, ChatRequest), "only chats call tools"
    found = await _offered(request, call.caller)
    if not found:
        return None
    if (request.params.n or 1) > 1:
        raise InvalidRequest(
            "'n' must be 1 where the gateway runs tools.", param="n", code="invalid_value"
        )
    if request.native_only is not None:
        raise request.native_only
    request.native = None
    return ServerTools(frozenset(found), _runner(found, call))


async def _offered(request: ChatRequest, caller: Caller) -> dict[str, ToolFacts]:
    found = {}
    for tool in request.params.tools or ():
        function = tool.function
        if function is None:
            continue
        registered = await registry.find(function.name, may_use=caller.may_use_tool)
        if registered is not None and _is_named(function, registered):
            found[function.name] = registered
    return found


def _is_named(offered: FunctionDefinition, tool: ToolFacts) -> bool:
    """Whether a tool that is offered is the registered one: a caller may define another by the same
    name, and runs that itself."""
    if tool.kind == Kind.CLIENT:
        return False
    same = (offered.description or "") == tool.description
    return same and (offered.parameters or {}) == tool.parameters


def _runner(tools: dict[str, ToolFacts], call: Call) -> Run:
    async def run(name: str, arguments: str, call_id: str) -> ToolResult:
        return await running.run(
            tools[name],
            arguments,
            call_id=call_id,
            request_id=call.request_id,
            session_id=call.session_id or None,
        )

    return run
