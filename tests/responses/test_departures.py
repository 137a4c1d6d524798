"""Callers who leave, a database that is away, a server that starts anew."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.gateway import KEY, Gateway, wait_until
from tests.responses.calls import (
    LIMITED_KEY,
    MODEL,
    NATIVE,
    call,
    check_numbers,
    conversation,
    create,
    open_stream,
    read_events,
    response,
    typed_events,
)
from tests.responses.conftest import responses_configuration
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Upstream,
    chunk,
    chunks,
    completion,
    scripted_upstream,
    silence,
    streaming,
    whole,
)


async def talking(asked: Asked, peer: Peer) -> None:
    peer.begin()
    if asked.path.endswith("/responses"):
        for piece in typed_events(response())[:5]:
            peer.piece(piece)
    while True:
        peer.piece(chunk(content="hello ") if "messages" in asked.json() else b": x\n\n")
        await asyncio.sleep(0.02)


async def ask_and_leave(
    gateway: Gateway, body: dict[str, object], request_id: str, mark: bytes
) -> None:
    """Leaves once `mark` was read, or at once after asking where it is empty."""
    raw = json.dumps(body).encode()
    lines = [
        *("POST /v1/responses HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {KEY}"),
        *("content-type: application/json", f"content-length: {len(raw)}"),
        f"x-request-id: {request_id}",
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write("\r\n".join([*lines, "", ""]).encode() + raw)
    await writer.drain()
    if mark:
        await reader.readuntil(mark)
    else:
        await asyncio.sleep(0.3)
    writer.close()


@pytest.mark.parametrize("model", [MODEL, NATIVE])
@pytest.mark.parametrize("phase", ["before the first byte", "in the middle", "of a whole answer"])
async def test_the_upstream_is_let_go_within_a_second(
    served: Gateway, upstream: Upstream, model: str, phase: str
) -> None:
    streamed = phase != "of a whole answer"
    upstream.script = talking if phase == "in the middle" else silence
    name = f"leaving-{model}-{phase}".replace(" ", "-")
    mark = b"output_text.delta" if phase == "in the middle" else b""
    await ask_and_leave(served, {"model": model, "input": "x", "stream": streamed}, name, mark)
    await asyncio.to_thread(wait_until, lambda: len(upstream.left) == 1, seconds=1)

    def row() -> list[str]:
        return [each.status for each in served.rows() if each.request_id == name]

    await asyncio.to_thread(wait_until, lambda: row() == ["aborted"], seconds=10)


def test_a_response_survives_a_restart(tmp_path: Path, spare_database_url: str) -> None:
    with scripted_upstream(whole(200, completion("Kept."))) as upstream:
        gateway = Gateway(tmp_path, spare_database_url)
        gateway.apply(responses_configuration(upstream.base_url))
        try:
            gateway.start()
            named = conversation(gateway)
            made = create(gateway, conversation=named)
            gateway.kill()
            gateway.start()
            assert call(gateway, "GET", f"/{made['id']}").json() == made
            create(gateway, previous_response_id=made["id"])
            assert len(upstream.asked[-1].json()["messages"]) == 3
            create(gateway, conversation=named)
            assert len(upstream.asked[-1].json()["messages"]) == 3
        finally:
            gateway.stop()


@contextmanager
def without_the_table(
    gateway: Gateway, name: str = "sessions_app_storedresponse"
) -> Iterator[None]:
    run(gateway, f"ALTER TABLE {name} RENAME TO {name}_away")
    try:
        yield
    finally:
        run(gateway, f"ALTER TABLE {name}_away RENAME TO {name}")


def run(gateway: Gateway, statement: str) -> None:
    if gateway.database_url.startswith("sqlite:///"):
        path = gateway.database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=20)) as database:
            database.execute(statement)
            database.commit()
    else:
        with psycopg.connect(gateway.database_url) as server:
            server.execute(statement.encode())


def test_an_answer_that_cannot_be_stored_is_given_and_says_so(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Paid for."))
    with without_the_table(served):
        answered = call(served, "POST", "", {"model": MODEL, "input": "x"})
        assert answered.status == 200
        assert answered.headers["x-gateway-dropped-params"] == "store"
        assert answered.json()["store"] is False
        body = {"model": MODEL, "input": "x", "stream": True}
        upstream.script = streaming([chunk(content="Paid for."), chunk("stop"), DONE])
        assert b'"store":false' in call(served, "POST", "", body).body.rpartition(b"event: ")[2]
        upstream.script = whole(200, completion("Paid for."))
        queued = call(served, "POST", "", {"model": MODEL, "input": "x", "background": True})
        assert queued.status in (500, 503)
    create(served)


def test_a_queued_response_that_could_not_be_stored_holds_no_place(
    served: Gateway, upstream: Upstream
) -> None:
    """The key's parallel requests are given back."""
    upstream.script = whole(200, completion())
    with without_the_table(served):
        for _ in range(3):
            call(
                served,
                "POST",
                "",
                {"model": MODEL, "input": "x", "background": True},
                key=LIMITED_KEY,
            )
    create(served, key=LIMITED_KEY)


def test_a_stream_outlives_a_database_that_is_away(served: Gateway, upstream: Upstream) -> None:
    upstream.script = streaming(chunks(*"abcdefghijkl"), pause_s=0.05)
    with open_stream(served) as events:
        told = [next(events) for _ in range(3)]
        with without_the_table(served, "sessions_app_responseevents"):
            time.sleep(1.2)
        told += events
    check_numbers(told)
    assert told[-1]["type"] == "response.completed"
    name = told[0]["response"]["id"]
    assert read_events(call(served, "GET", f"/{name}?stream=true").body) == told
