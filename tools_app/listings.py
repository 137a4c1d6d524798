"""What the MCP servers offer: asked of them, remembered, and never waited for twice.

A listing is served for DISCOVERY_TTL_S, and an older one while a newer is on its way; a failure is
remembered for FAILURE_TTL_S, so that a server that is down does not slow every look. No server is
waited for longer than LIST_TIMEOUT_S.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from django.conf import settings

from chat.errors import UpstreamError
from tools_app.mcp_calls import list_tools
from tools_app.mcp_failures import McpFailed
from tools_app.snapshot import ServerFacts, ToolFacts

logger = logging.getLogger(__name__)

FAILURE_TTL_S = 15.0
LIST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ToolListing:
    """What a server said last. `tools` outlive a failure: they may be called all the same."""

    server: ServerFacts
    tools: tuple[ToolFacts, ...]
    error: str | None = None
    at: float = field(default_factory=time.monotonic)

    @property
    def is_fresh(self) -> bool:
        age = time.monotonic() - self.at
        return age < (FAILURE_TTL_S if self.error else settings.DISCOVERY_TTL_S)


_listings: dict[str, ToolListing] = {}
_Question = tuple[ServerFacts, asyncio.Task[ToolListing]]
_asking: dict[tuple[asyncio.AbstractEventLoop, str], _Question] = {}
"""The questions under way, by the loop they live in."""


def forget() -> None:
    """Drops every listing."""
    _listings.clear()
    _asking.clear()


def known(server: ServerFacts) -> ToolListing | None:
    """A server's listing from memory; none of another address or other headers."""
    listing = _listings.get(server.name)
    return listing if listing is not None and listing.server == server else None


async def list_all(servers: Collection[ServerFacts]) -> list[ToolListing]:
    """Every server's listing, in their order, all asked at once; those of others are forgotten.
    Never raises for a server."""
    for name in _listings.keys() - {server.name for server in servers}:
        _listings.pop(name, None)
    return await asyncio.gather(*(list_server(server) for server in servers))


async def list_server(server: ServerFacts, *, refresh: bool = False) -> ToolListing:
    listing = None if refresh else known(server)
    if listing is not None and listing.is_fresh:
        return listing
    task = _ask_once(server)
    if listing is not None and listing.tools:
        return listing
    # Shielded: a caller that hangs up must not fail the others that wait for the same answer.
    return await asyncio.shield(task)


def _ask_once(server: ServerFacts) -> asyncio.Task[ToolListing]:
    """The question under way to this server as it is configured now, or a new one."""
    loop = asyncio.get_running_loop()
    key = (loop, server.name)
    question = _asking.get(key)
    if question is not None and question[0] == server:
        return question[1]
    for other in [each for each in list(_asking) if each[0].is_closed()]:
        _asking.pop(other, None)  # a loop that ended without ending its tasks
    task = loop.create_task(_ask(server))
    question = _asking[key] = (server, task)
    task.add_done_callback(lambda _: _asking.pop(key) if _asking.get(key) is question else None)
    return task


async def _ask(server: ServerFacts) -> ToolListing:
    before = known(server)
    tools: Iterable[ToolFacts] = before.tools if before is not None else ()
    error = server.problem
    try:
        if error is None:
            async with asyncio.timeout(min(LIST_TIMEOUT_S, server.timeout_s)):
                tools = await list_tools(server)
    except TimeoutError:
        error = f"No answer within {min(LIST_TIMEOUT_S, server.timeout_s):g} s."
    except UpstreamError as failure:
        error = failure.message
    except McpFailed as failure:
        error = str(failure)
    except Exception:  # an edge: one server must not hide the tools of the others
        logger.exception("Listing the tools of %s failed.", server.name)
        error = "The gateway failed to read its tools."
    if error:
        logger.info("The tools of the MCP server %s cannot be listed: %s", server.name, error)
    listing = _listings[server.name] = ToolListing(server, tuple(tools), error)
    return listing
