"""Tools for tests: their facts, and a real MCP server in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.gateway import free_port, wait_until
from tools_app.results import ToolResult
from tools_app.running import run
from tools_app.snapshot import ServerFacts, ToolFacts

SECRET = "gws-0123456789abcdef0123456789abcdef0123456789a"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def http_tool(url: str, **fields: Any) -> ToolFacts:
    named = {"description": "Tells the weather.", "parameters": CITY, "signing_secret": SECRET}
    return ToolFacts(**{"name": "get_weather", "kind": "http", "url": url, **named, **fields})


async def call(tool: ToolFacts, arguments: str = '{"city": "Paris"}') -> ToolResult:
    return await run(tool, arguments, call_id="call_1", request_id="req_1", session_id="s1")


_SERVER = """
import asyncio, sys
from mcp.server.mcpserver import MCPServer

server = MCPServer("tools")

@server.tool()
def add(a: int, b: int) -> int:
    "Adds two numbers."
    return a + b

@server.tool()
async def hang() -> str:
    "Never answers."
    await asyncio.sleep(3600)
    return "never"

@server.tool()
def fail() -> str:
    "Always fails."
    raise ValueError("out of order")

@server.tool(name="not/for/every.wire")
def unnameable() -> str:
    return "?"

server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
"""


@dataclass
class McpProcess:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def facts(self, **fields: Any) -> ServerFacts:
        return ServerFacts(
            **{"name": "lab", "url": self.url, "headers": {}, "timeout_s": 10.0, **fields}
        )

    def tool(self, name: str, **fields: Any) -> ToolFacts:
        any_object = {"type": "object"}
        facts = {"description": "", "parameters": any_object, "kind": "mcp", "url": self.url}
        return ToolFacts(**{"name": name, **facts, **fields})

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def mcp_process() -> Iterator[McpProcess]:
    """A server that adds, hangs and fails."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = McpProcess(port, process)
    try:
        wait_until(lambda: _listens(port), seconds=30)
        yield server
    finally:
        server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
