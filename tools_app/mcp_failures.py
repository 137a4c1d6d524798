"""What goes wrong with an MCP server that answers."""

from __future__ import annotations


class McpFailed(Exception):
    """The server answered with an error, or with what is no answer. The text may be the server's
    own."""
