"""Which tools there are for a caller: registered ones first, then those of the MCP servers in the
order of the servers' names. Of two with one name the first counts.
"""

from __future__ import annotations

from collections.abc import Callable

from tools_app import listings
from tools_app.snapshot import ToolFacts, ToolSnapshot, current

MayUse = Callable[[str], bool]
"""Whether a caller may use a tool by its name. One it may not use is as if it did not exist."""


async def find(name: str, *, may_use: MayUse) -> ToolFacts | None:
    """The tool a caller means. MCP servers are asked only for a name that no memory knows."""
    if not may_use(name):
        return None
    snapshot = current()
    tool = snapshot.tools.get(name) or _remembered(snapshot, name)
    if tool is None and snapshot.servers:
        await listings.list_all(snapshot.servers.values())
        tool = _remembered(snapshot, name)
    return tool


def _remembered(snapshot: ToolSnapshot, name: str) -> ToolFacts | None:
    for server in snapshot.servers.values():
        listing = listings.known(server)
        for tool in listing.tools if listing is not None else ():
            if tool.name == name:
                return tool
    return None


async def offered(*, may_use: MayUse) -> list[ToolFacts]:
    """Every tool a caller may use, by name."""
    snapshot = current()
    found = dict(snapshot.tools)
    for listing in await listings.list_all(snapshot.servers.values()):
        for tool in listing.tools:
            found.setdefault(tool.name, tool)
    return [tool for name, tool in sorted(found.items()) if may_use(name)]
