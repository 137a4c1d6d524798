"""Tools of a real MCP server, by the official client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.tools_app.stage import McpProcess, call, mcp_process
from tests.upstream import Asked, Peer, Upstream, whole
from tools_app.listings import list_server
from tools_app.snapshot import ServerFacts


@pytest.fixture(scope="module")
def server() -> Iterator[McpProcess]:
    with mcp_process() as server:
        yield server


@pytest.mark.usefixtures("loopback_open")
async def test_a_server_lists_the_tools_that_every_wire_can_call(server: McpProcess) -> None:
    listing = await list_server(server.facts())
    assert listing.error is None
    assert [tool.name for tool in listing.tools] == ["add", "hang", "fail"]
    add = listing.tools[0]
    assert (add.kind, add.description, add.server) == ("mcp", "Adds two numbers.", "lab")
    assert add.parameters["required"] == ["a", "b"]


@pytest.mark.usefixtures("loopback_open")
async def test_a_listed_tool_is_called(server: McpProcess) -> None:
    listing = await list_server(server.facts())
    result = await call(listing.tools[0], '{"a": 2, "b": 40}')
    assert (result.text, result.error) == ("42", None)
    refused = await call(listing.tools[0], '{"a": "two", "b": 40}')
    assert refused.error == "invalid_arguments"


@pytest.mark.usefixtures("loopback_open")
async def test_what_a_server_calls_an_error_is_told_to_the_model(server: McpProcess) -> None:
    result = await call(server.tool("fail"), "{}")
    assert result.error == "tool_error" and "fail" in result.text
    unknown = await call(server.tool("no_such_tool"), "{}")
    assert unknown.error == "tool_error" and "no_such_tool" in unknown.text


@pytest.mark.usefixtures("loopback_open")
async def test_a_tool_that_hangs_costs_only_its_timeout(server: McpProcess) -> None:
    started = time.monotonic()
    result = await call(server.tool("hang", timeout_s=1.5), "{}")
    assert result.error == "timeout"
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("loopback_open")
async def test_a_caller_that_leaves_ends_the_call(server: McpProcess) -> None:
    task = asyncio.create_task(call(server.tool("hang"), "{}"))
    await asyncio.sleep(0.5)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("loopback_open")
async def test_a_server_killed_in_the_middle_is_a_failing_result() -> None:
    with mcp_process() as server:
        task = asyncio.create_task(call(server.tool("hang"), "{}"))
        await asyncio.sleep(1)
        server.kill()
        started = time.monotonic()
        result = await task
        assert result.failed
        assert time.monotonic() - started < 12
        listing = await list_server(server.facts())
        assert listing.tools == () and listing.error is not None


async def test_a_server_inside_is_not_asked_by_default(server: McpProcess) -> None:
    listing = await list_server(server.facts())
    assert listing.error is not None and "may not be used" in listing.error


async def test_a_failure_is_remembered_for_a_while(place: Upstream) -> None:
    place.script = whole(500, b"out of order")
    facts = ServerFacts("down", place.base_url, {}, 5.0)
    first = await list_server(facts)
    asked = len(place.asked)
    assert first.error is not None and asked
    assert await list_server(facts) is first
    assert len(place.asked) == asked


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"jsonrpc":"2.0","id":1,"result":{}}', b"\xff"]
)
async def test_a_server_that_speaks_something_else_is_a_failing_result(
    place: Upstream, body: bytes
) -> None:
    place.script = whole(200, body)
    facts = ServerFacts("odd", place.base_url, {}, 2.0)
    listing = await list_server(facts)
    assert listing.tools == () and listing.error


async def endless(asked: Asked, peer: Peer) -> None:
    peer.begin(content_type="application/json")
    for _ in range(100):
        peer.piece(b" " * (1 << 20))
        await asyncio.sleep(0)


async def test_a_server_that_sends_without_an_end_is_cut_off(place: Upstream) -> None:
    place.script = endless
    listing = await list_server(ServerFacts("endless", place.base_url, {}, 5.0))
    assert listing.error and not listing.error.startswith("No answer")


async def test_everybody_waits_for_the_same_answer(place: Upstream) -> None:
    place.script = whole(500, b"out of order")
    facts = ServerFacts("down", place.base_url, {}, 5.0)
    listings = await asyncio.gather(*(list_server(facts) for _ in range(20)))
    assert len({id(listing) for listing in listings}) == 1
