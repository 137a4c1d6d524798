"""Tools of MCP servers: listed, and called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from tools_app.mcp_failures import McpFailed
from tools_app.models import Kind, is_tool_name
from tools_app.results import MAX_RESULT, ToolCall, ToolResult
from tools_app.snapshot import ServerFacts, ToolFacts

if TYPE_CHECKING:
    from mcp.client.client import Client

T = TypeVar("T")

MAX_TOOLS = 500
"""Tools taken of one server."""


async def call_mcp(call: ToolCall) -> ToolResult:
    """Raises UpstreamError where no answer came."""
    tool = call.tool

    async def question(client: Client) -> ToolResult:
        answer = await client.call_tool(tool.name, call.arguments)
        return result_of(answer.model_dump(mode="json", by_alias=True))

    try:
        return await _ask(tool.url, tool.headers, question, seconds=tool.timeout_s)
    except McpFailed as error:
        return ToolResult(f"The tool failed: {error}", "tool_error")


async def list_tools(server: ServerFacts) -> list[ToolFacts]:
    """The tools of a server whose names every wire can call. Raises UpstreamError and McpFailed."""

    async def question(client: Client) -> list[ToolFacts]:
        found: list[ToolFacts] = []
        cursor: str | None = None
        for _ in range(MAX_TOOLS):
            page = await client.list_tools(cursor=cursor)
            found += [
                _facts(server, tool.name, tool.description, parameters=tool.input_schema)
                for tool in page.tools
                if is_tool_name(tool.name)
            ]
            cursor = page.next_cursor
            if cursor is None or len(found) >= MAX_TOOLS:
                break
        return found[:MAX_TOOLS]

    return await _ask(server.url, server.headers, question, seconds=server.timeout_s)


async def _ask(
    url: str,
    headers: Mapping[str, str],
    question: Callable[[Client], Awaitable[T]],
    *,
    seconds: float,
) -> T:
    await asyncio.to_thread(_import_client)
    from tools_app.mcp_session import ask

    return await ask(url, headers, question, seconds=seconds)


def _import_client() -> None:
    """In a thread, the first time: requests of others must not wait for 0.7 s of importing."""
    import tools_app.mcp_session  # noqa: F401


def _facts(
    server: ServerFacts, name: str, description: str | None, *, parameters: dict[str, Any]
) -> ToolFacts:
    return ToolFacts(
        name=name,
        description=description or "",
        parameters=parameters,
        kind=Kind.MCP.value,
        url=server.url,
        headers=server.headers,
        timeout_s=server.timeout_s,
        server=server.name,
    )


def result_of(answer: Mapping[str, Any]) -> ToolResult:
    """A `CallToolResult` as text: its texts, else its structured content; what is no text is named
    and left out."""
    blocks: Iterable[Mapping[str, Any]] = answer.get("content") or ()
    text = "\n".join(_shown(block) for block in blocks).replace("\0", "")
    if not text and answer.get("structuredContent") is not None:
        text = orjson.dumps(answer["structuredContent"]).decode()
    if len(text.encode(errors="replace")) > MAX_RESULT:
        return ToolResult(f"The tool's answer is larger than {MAX_RESULT >> 20} MiB.", "too_large")
    return ToolResult(text, "tool_error" if answer.get("isError") else None)


def _shown(block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    if kind == "text":
        return str(block.get("text") or "")
    resource = block.get("resource")
    if isinstance(resource, Mapping) and isinstance(resource.get("text"), str):
        return str(resource["text"])
    return f"[{kind} left out: {block.get('mimeType') or block.get('uri') or 'no text'}]"
