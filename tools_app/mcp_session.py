"""A session with an MCP server, by the official client over our own HTTP client, so that its
requests pass the outbound guard like all others.

Imported when a server is first asked (`mcp_calls`): the client takes 0.7 s of CPU to import.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from chat.errors import UpstreamError
from providers.http import HttpClient, HttpReply, Timeouts
from providers.outbound import parse_url
from tools_app.http_calls import timeouts_of, tools_client
from tools_app.mcp_failures import McpFailed

T = TypeVar("T")

MAX_BODY = 4 << 20
"""Bytes of one HTTP answer; a listing of 500 tools has some 500 kB."""
_GOODBYE_S = 2.0


async def ask(
    url: str,
    headers: Mapping[str, str],
    question: Callable[[Client], Awaitable[T]],
    *,
    seconds: float,
) -> T:
    """What `question` makes of a session that lasts as long as it. Raises UpstreamError (no answer
    came) and McpFailed (it was no good one)."""
    parse_url(url)  # httpx2 has a parser of its own: of two that disagree, ours counts
    transport = _GuardedTransport(tools_client(), seconds)
    try:
        async with (
            httpx2.AsyncClient(
                transport=transport, headers=dict(headers), trust_env=False, timeout=None
            ) as http,
            Client(streamable_http_client(url, http_client=http), cache=None) as client,
        ):
            return await question(client)
    except Exception as error:  # an edge: the client lets whatever a server says become an error
        if transport.failure is not None:
            raise transport.failure from None
        raise McpFailed(_told(error)) from error


def _told(error: Exception) -> str:
    """The server's own words where it has answered with an error."""
    for each in _leaves(error):
        if isinstance(each, MCPError):
            return each.message[:2000]
    return "It does not answer as an MCP server does."


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


class _GuardedTransport(httpx2.AsyncBaseTransport):
    """httpx2's requests made by our client: each is checked, none is redirected."""

    def __init__(self, http: HttpClient, seconds: float) -> None:
        self.failure: UpstreamError | None = None
        self._http = http
        self._timeouts = timeouts_of(seconds)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        try:
            reply = await self._http.request(
                request.method,
                str(request.url),
                headers=dict(request.headers) | {"accept-encoding": "identity"},
                body=body or None,
                timeouts=self._timeouts_for(request.method),
            )
        except UpstreamError as error:
            raise self._failed(error) from None
        # Without `location` the client has nothing to follow: it would, within the origin.
        headers = {name: value for name, value in reply.headers.items() if name not in _UNTOLD}
        return httpx2.Response(reply.status, headers=headers, stream=_Body(reply, self._failed))

    def _timeouts_for(self, method: str) -> Timeouts:
        # The end of a session is told when everything is over, also when the caller has left.
        return timeouts_of(_GOODBYE_S) if method == "DELETE" else self._timeouts

    def _failed(self, error: UpstreamError) -> httpx2.TransportError:
        self.failure = error
        return httpx2.ReadError(error.message)


_UNTOLD = frozenset(["location", "content-encoding", "content-length", "transfer-encoding"])
"""Our client has decoded the body."""


class _Body(httpx2.AsyncByteStream):
    def __init__(
        self, reply: HttpReply, failed: Callable[[UpstreamError], httpx2.TransportError]
    ) -> None:
        self._reply = reply
        self._failed = failed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        room = MAX_BODY
        try:
            while piece := await self._reply.next_bytes():
                room -= len(piece)
                if room < 0:
                    self._reply.close()
                    raise httpx2.ReadError("The answer is too large.")
                yield piece
        except UpstreamError as error:
            raise self._failed(error) from None

    async def aclose(self) -> None:
        self._reply.close()
