"""`/v1/tools`: the registered tools, for those who may use them; registration, for administrators.

Registering is where gateways were broken into (CVE-2026-42271): it takes definitions and addresses,
never code, no command, no path; an address has to pass the outbound guard now, and again at every
call.
"""

from __future__ import annotations

from typing import Any

import orjson
from django.conf import settings
from django.core.exceptions import ValidationError
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request

from chat.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, UpstreamUnreachable
from chat.parsing import parse_object
from gateway_api import request_examples
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView, read_json_body
from gateway_api.native import tools_schema as schema
from gateway_api.resources import require_tools
from keys.authentication import IsAdmin
from keys.caller import Caller
from providers.database import in_database
from providers.outbound import OutboundGuard, OutboundPolicy
from tools_app import listings, registry, snapshot
from tools_app.models import MAX_TIMEOUT_S, Kind, McpServer, Tool
from tools_app.registration import NameTaken, Registration, register, remove
from tools_app.snapshot import ServerFacts, ToolFacts, server_facts, tool_facts

MAX_DESCRIPTION = 10_000
FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "a string"),
    "description": (str, "a string"),
    "parameters": (dict, "a JSON Schema, an object"),
    "kind": (str, "a string"),
    "url": (str, "a string"),
    "headers": (dict, "an object"),
    "timeout": ((int, float), "a number of seconds"),
    "timeout_s": ((int, float), "a number of seconds"),
}


class ToolsView(AsyncAPIView):
    """The tools a caller may use."""

    @extend_schema(
        operation_id="list_tools",
        summary="Registered tools",
        description="The tools this key may use, those of MCP servers among them.",
        responses={(200, "application/json"): schema.TOOLS, **schema.errors(401, 503)},
        tags=schema.TAG,
    )
    async def get(self, request: Request) -> AnyAnswer:
        require_tools()
        tools = await registry.offered(may_use=self.caller.may_use_tool)
        return json_answer({"tools": [_told(tool) for tool in tools], "count": len(tools)})


class ToolView(AsyncAPIView):
    """One tool by its name."""

    @extend_schema(
        operation_id="get_tool",
        summary="One registered tool",
        responses={(200, "application/json"): schema.TOOL, **schema.errors(401, 404, 503)},
        tags=schema.TAG,
    )
    async def get(self, request: Request, name: str) -> AnyAnswer:
        require_tools()
        tool = await registry.find(name, may_use=self.caller.may_use_tool)
        if tool is not None:
            return json_answer(_told_to(self.caller, tool))
        server = snapshot.current().servers.get(name)
        if server is not None and self.caller.is_admin:
            return json_answer(await _told_server(server))
        raise _not_found(name)

    @extend_schema(
        operation_id="delete_tool",
        summary="Delete a registered tool",
        description="For an admin key or staff. Also of an MCP server, with all its tools.",
        responses={(200, "application/json"): schema.DELETED, **schema.errors(401, 403, 404, 409)},
        tags=schema.TAG,
    )
    async def delete(self, request: Request, name: str) -> AnyAnswer:
        if not self.caller.is_admin:
            raise PermissionDenied("Only an admin key or staff may delete a tool.")
        if not await in_database(_remove, name, self.caller.name):
            tool = await registry.find(name, may_use=self.caller.may_use_tool)
            if tool is not None and tool.server is not None:
                raise Conflict(
                    f"'{name}' is a tool of the MCP server '{tool.server}': delete that.",
                    code="tool_of_mcp_server",
                )
            raise _not_found(name)
        return json_answer({"status": "deleted", "name": name})


class RegisterToolView(AsyncAPIView):
    """A new tool, or an MCP server with all its tools."""

    permission_classes = [IsAdmin]

    @extend_schema(
        operation_id="register_tool",
        summary="Register a tool",
        description="For an admin key or staff. `client` tools are definitions by name; `http` "
        "tools are run by the gateway, which signs its calls with the `signing_secret` that is "
        "told here and nowhere else; `mcp` with `parameters` is the tool `name` of the server at "
        "`url`, and without them that server with all its tools.",
        request=schema.REGISTRATION,
        examples=request_examples.TOOL,
        responses={
            (201, "application/json"): OpenApiResponse(schema.REGISTERED),
            **schema.errors(400, 401, 403, 409, 413, 415),
        },
        tags=schema.TAG,
    )
    async def post(self, request: Request) -> AnyAnswer:
        wanted = read_registration(parse_object(await read_json_body(request)))
        if wanted.url:
            await _check_address(wanted.url)
        try:
            row, secret = await in_database(_register, wanted, self.caller.name)
        except NameTaken:
            raise Conflict(
                f"There is a tool or an MCP server named '{wanted.name}' already.",
                param="name",
                code="tool_exists",
            ) from None
        except ValidationError as error:
            raise _invalid(error) from None
        if isinstance(row, McpServer):
            told = await _told_server(server_facts(row))
        else:
            told = _told_to(self.caller, tool_facts(row))
        answer = {"status": "registered", "tool": told}
        if secret is not None:
            answer["signing_secret"] = secret
        return json_answer(answer, status=201)


def _register(wanted: Registration, by: str) -> tuple[Tool | McpServer, str | None]:
    made = register(wanted, by=by)
    snapshot.refresh()  # this worker's next request must find it; the others follow by themselves
    return made


def _remove(name: str, by: str) -> bool:
    removed = remove(name, by=by)
    snapshot.refresh()
    return removed


def _told(tool: ToolFacts) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "kind": tool.kind,
    }


def _told_to(caller: Caller, tool: ToolFacts) -> dict[str, Any]:
    """With its address for administrators: others may not know the network inside."""
    if not (caller.is_admin and tool.url):
        return _told(tool)
    return {**_told(tool), "url": tool.url, "timeout": tool.timeout_s, "server": tool.server}


async def _told_server(server: ServerFacts) -> dict[str, Any]:
    """An MCP server as administrators see it: a name without a schema, and the tools it has now."""
    listing = await listings.list_server(server, refresh=True)
    return {
        "name": server.name,
        "description": "",
        "parameters": None,
        "kind": Kind.MCP.value,
        "url": server.url,
        "timeout": server.timeout_s,
        "tools": [tool.name for tool in listing.tools],
        "error": listing.error,
    }


def _not_found(name: str) -> NotFound:
    return NotFound(f"There is no tool named '{name[:100]}'.", code="tool_not_found")


async def _check_address(url: str) -> None:
    """Raises InvalidRequest. A name without an address may get one; what it is, is checked then."""
    try:
        await OutboundGuard(OutboundPolicy.for_tools(settings.OUTBOUND_ALLOW)).check(url)
    except UpstreamUnreachable as error:
        if error.kind == "outbound":
            reason = error.message.removeprefix("The upstream's URL")
            raise InvalidRequest(
                f"The tool's URL{reason}", param="url", code="url_not_permitted"
            ) from None


def _invalid(error: ValidationError) -> InvalidRequest:
    """The first thing a column or a constraint says of a registration."""
    if not hasattr(error, "error_dict"):
        return InvalidRequest(" ".join(error.messages), param="headers", code="invalid_value")
    field, messages = next(iter(error.message_dict.items()))
    param = {"timeout_s": "timeout", "__all__": "url"}.get(field, field)
    return InvalidRequest(f"'{param}': {messages[0]}", param=param, code="invalid_value")


# --- the body ---------------------------------------------------------------------------------


def read_registration(body: dict[str, Any]) -> Registration:
    """Raises InvalidRequest that names the field. A field that does not exist is refused: what is
    no definition (`code`, `command`, `handler`) must not seem to be taken."""
    for name, value in body.items():
        if name not in FIELDS:
            raise InvalidRequest(
                f"There is no field '{name[:64]}' here; there are {', '.join(FIELDS)}.",
                param=name[:64],
                code="unknown_parameter",
            )
        type_, wanted = FIELDS[name]
        if value is not None and (not isinstance(value, type_) or isinstance(value, bool)):
            raise InvalidRequest(f"'{name}' must be {wanted}.", param=name, code="invalid_type")
    given = {name: value for name, value in body.items() if value is not None}
    kind = _read_kind(given)
    return Registration(
        name=_required(given, "name"),
        kind=kind,
        description=_read_description(given),
        parameters=_read_parameters(given, kind),
        url=_read_url(given, kind),
        headers=_read_headers(given, kind),
        timeout_s=_read_timeout(given),
    )


def _required(given: dict[str, Any], field: str) -> Any:
    if field not in given:
        raise InvalidRequest(
            f"Missing required parameter: '{field}'.",
            param=field,
            code="missing_required_parameter",
        )
    return given[field]


def _read_kind(given: dict[str, Any]) -> str:
    kind: str = _required(given, "kind")
    if kind not in Kind.values:
        raise InvalidRequest(
            f"'kind' must be one of {', '.join(Kind.values)}.", param="kind", code="invalid_value"
        )
    return kind


def _read_description(given: dict[str, Any]) -> str:
    description: str = given.get("description", "")
    if len(description) > MAX_DESCRIPTION or "\0" in description:
        raise InvalidRequest(
            f"'description' must be text of at most {MAX_DESCRIPTION:,} characters.",
            param="description",
            code="invalid_value",
        )
    return description


def _read_parameters(given: dict[str, Any], kind: str) -> dict[str, Any] | None:
    if kind == Kind.MCP and "parameters" not in given:
        return None
    parameters: dict[str, Any] = _required(given, "parameters")
    if b"\\u0000" in orjson.dumps(parameters):
        raise InvalidRequest("'parameters' holds a character that is not text.", param="parameters")
    return parameters


def _read_url(given: dict[str, Any], kind: str) -> str:
    if kind != Kind.CLIENT:
        url: str = _required(given, "url")
        return url
    if "url" in given:
        raise InvalidRequest("A client tool has no 'url': its caller runs it.", param="url")
    return ""


def _read_headers(given: dict[str, Any], kind: str) -> dict[str, str]:
    headers: dict[str, str] = given.get("headers", {})
    if headers and kind == Kind.CLIENT:
        raise InvalidRequest("A client tool has no 'headers'.", param="headers")
    return headers


def _read_timeout(given: dict[str, Any]) -> float | None:
    """By its name here, or the configuration file's."""
    named = [name for name in ("timeout", "timeout_s") if name in given]
    if not named:
        return None
    value, name = given[named[0]], named[-1]
    if len(named) > 1 or not 0 < value <= MAX_TIMEOUT_S:
        raise InvalidRequest(
            f"'{name}' must be more than 0 and at most {MAX_TIMEOUT_S:g} seconds, and stand once.",
            param=name,
            code="invalid_value",
        )
    return float(value)
