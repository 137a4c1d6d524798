"""What strangers send that is almost HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from gateway_site import protocol
from tests.gateway import KEY, Gateway

pytestmark = pytest.mark.once


async def tell_headers(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the headers it was asked with, once the body is here."""
    while (await receive()).get("more_body"):
        pass
    told = json.dumps([[name.decode(), value.decode()] for name, value in scope["headers"]])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told.encode()})


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    config = uvicorn.Config(
        tell_headers, http=protocol.GuardedProtocol, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server._serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await task


async def answer_to(port: int, *pieces: bytes, pause_s: float = 0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("at_once", [True, False])
async def test_trailers_are_no_headers(*, at_once: bool) -> None:
    trailers = b"0\r\nx-forwarded-for: 127.0.0.1\r\nauthorization: Bearer x\r\n\r\n"
    pieces = (CHUNKED + trailers,) if at_once else (CHUNKED, b"1\r\na\r\n", trailers)
    async with serving() as port:
        answer = await answer_to(port, *pieces)
    told = dict(json.loads(answer.partition(b"\r\n\r\n")[2].partition(b"\r\n")[2].splitlines()[0]))
    assert told.keys() == {"host", "connection", "transfer-encoding"}


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nhost: x\r\nx: "])
async def test_a_head_without_an_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    whole = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    async with serving() as port:
        assert await answer_to(port, begun) == b""
        second = await answer_to(port, whole, begun or b"G")
    assert second.count(b"HTTP/1.1 200 OK") == 1


async def test_a_slow_body_is_not_the_heads_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    async with serving() as port:
        answer = await answer_to(port, CHUNKED, b"1\r\na\r\n", b"0\r\n\r\n", pause_s=0.3)
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_who_wants_a_websocket_is_answered_in_http(gateway: Gateway) -> None:
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
        "authorization": f"Bearer {KEY}",
    }
    assert gateway.call("GET", "/v1/models", headers=headers).status == 200
    assert (
        gateway.call("GET", "/v1/nothing", headers=headers).json()["error"]["code"] == "not_found"
    )
