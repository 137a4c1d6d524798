"""What leaves on the connection, under uvicorn's own cycle and through plain ASGI."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway_site import writer as writers
from gateway_site.writer import Writer, writer_for
from tests.gateway import free_port, wait_until

pytestmark = pytest.mark.once
JSON = [(b"content-type", b"application/json"), (b"x-request-id", b"r-1")]
Writing = Callable[[Writer], Awaitable[None]]


class Wire(asyncio.Transport):
    """A transport that keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.writes.append(b"(closed)")


def cycle_on(wire: Wire, **changes: Any) -> RequestResponseCycle:
    settings: dict[str, Any] = {
        "scope": {"type": "http", "method": "POST", "http_version": "1.1"},
        "transport": wire,
        "flow": FlowControl(wire),
        "logger": logging.getLogger("uvicorn.error"),
        "access_logger": logging.getLogger("uvicorn.access"),
        "access_log": False,
        "default_headers": [(b"date", b"today")],
        "message_event": asyncio.Event(),
        "expect_100_continue": False,
        "keep_alive": True,
        "on_response": lambda: None,
    }
    return RequestResponseCycle(**{**settings, **changes})


def writer_on(cycle: RequestResponseCycle, *, plain: bool = False) -> Writer:
    send: Any = cycle.send  # typed by uvicorn more narrowly than ASGI's messages are by us
    scope: Any = cycle.scope
    return Writer(send) if plain else writer_for(scope, send)


async def written(writing: Writing, *, plain: bool, **changes: Any) -> list[bytes]:
    wire = Wire()
    cycle = cycle_on(wire, **changes)
    await writing(writer_on(cycle, plain=plain))
    assert cycle.response_complete
    assert cycle.message_event.is_set()
    return wire.writes


async def whole(writer: Writer) -> None:
    await writer.whole(201, [*JSON, (b"content-length", b"2")], b"{}")


async def stream(writer: Writer) -> None:
    await writer.begin(200, list(JSON), b"data: 1\n\n")
    await writer.piece(b"data: 2\n\n")
    await writer.end(b"data: [DONE]\n\n")


async def silent_stream(writer: Writer) -> None:
    await writer.begin(200, list(JSON), b"")
    await writer.end(b"")


@pytest.mark.parametrize("writing", [whole, stream, silent_stream])
@pytest.mark.parametrize(
    "changes",
    [{}, {"keep_alive": False}, {"expect_100_continue": True}],
    ids=["plain", "to be closed", "expecting 100"],
)
async def test_the_bytes_are_those_uvicorn_itself_would_write(
    writing: Writing, changes: dict[str, Any]
) -> None:
    ours = await written(writing, plain=False, **changes)
    uvicorns = await written(writing, plain=True, **changes)
    assert b"".join(ours) == b"".join(uvicorns)


async def test_a_whole_answer_is_one_write() -> None:
    assert len(await written(whole, plain=False)) == 1


async def test_a_streams_head_goes_out_with_its_first_piece_and_the_end_with_its_last() -> None:
    first, middle, last = await written(stream, plain=False)
    assert first.startswith(b"HTTP/1.1 200 OK\r\n") and first.endswith(b"data: 1\n\n\r\n")
    assert middle == b"9\r\ndata: 2\n\n\r\n"
    assert last.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_who_speaks_http_1_0_gets_a_stream_without_chunks_that_ends_with_its_connection() -> (
    None
):
    scope = {"type": "http", "method": "GET", "http_version": "1.0"}
    sent = await written(stream, plain=False, scope=scope, keep_alive=False)
    head, _, body = b"".join(sent).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n(closed)"


async def test_a_header_that_would_split_the_answer_is_refused() -> None:
    wire = Wire()
    cycle = cycle_on(wire)
    writer = writer_on(cycle)
    with pytest.raises(ValueError, match="control character"):
        await writer.whole(200, [(b"x-gateway-model", b"a\r\nset-cookie: b"), *JSON], b"{}")
    assert wire.writes == []


async def test_nothing_is_written_for_a_caller_who_left() -> None:
    wire = Wire()
    cycle = cycle_on(wire)
    cycle.disconnected = True
    await stream(writer_on(cycle))
    assert wire.writes == []


async def test_a_full_buffer_is_waited_for_before_the_next_piece() -> None:
    wire = Wire()
    cycle = cycle_on(wire)
    writer = writer_on(cycle)
    await writer.begin(200, list(JSON), b"data: 1\n\n")
    cycle.flow.pause_writing()
    piece = asyncio.create_task(writer.piece(b"data: 2\n\n"))
    await asyncio.sleep(0.01)
    assert len(wire.writes) == 1
    cycle.flow.resume_writing()
    await piece
    assert wire.writes[1] == b"9\r\ndata: 2\n\n\r\n"


async def test_a_reader_whose_machine_takes_nothing_for_long_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writers, "STUCK_S", 1)
    pieces, is_over = 0, asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal pieces
        writer = writer_for(scope, send)
        await writer.begin(200, list(JSON), b"")
        while not send.__self__.disconnected:
            await writer.piece(bytes(1 << 16))
            pieces += 1
        is_over.set()

    config = uvicorn.Config(application, port=free_port(), lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    try:
        await asyncio.to_thread(wait_until, lambda: server.started, seconds=10)
        with socket.create_connection(("127.0.0.1", config.port)) as reader:
            reader.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            async with asyncio.timeout(20):
                await is_over.wait()
    finally:
        server.should_exit = True
        await serving
    assert pieces > 1


def test_uvicorns_cycle_has_what_the_writer_leans_on() -> None:
    """When this fails, uvicorn has changed: read `RequestResponseCycle.send` again."""
    source = inspect.getsource(RequestResponseCycle)
    for name in (
        "self.response_started",
        "self.response_complete",
        "self.chunked_encoding",
        "self.expected_content_length",
        "self.waiting_for_100_continue",
        "self.message_event.set()",
        "self.on_response()",
        "self.flow.write_paused",
        "self.disconnected",
        "self.default_headers + list(",
    ):
        assert name in source, name
