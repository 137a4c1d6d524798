"""Turns that end otherwise than they should: nothing half-written stays, and nobody waits long."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import spare_database
from tests.gateway import KEY, Answered, Gateway, wait_until
from tests.sessions_app.conftest import OPENAI, Ask, configured, echo, said
from tests.upstream import Asked, Peer, Upstream, chunk, scripted_upstream, silence


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


def ask_at(gateway: Gateway, method: str, path: str, body: Any = None) -> Answered:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    raw = json.dumps(body).encode() if body is not None else None
    return gateway.call(method, f"/v1/sessions{path}", raw, headers)


def leave_in_the_middle(gateway: Gateway, session: str, body: Any, *, until: bytes) -> None:
    """Asks for a turn and hangs up when this has come, or when the server does."""
    raw = json.dumps(body).encode()
    with closing(socket.create_connection(("127.0.0.1", gateway.port), timeout=10)) as caller:
        caller.sendall(
            f"POST /v1/sessions/{session}/chat HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        found = b""
        while not until or until not in found:
            try:
                piece = caller.recv(65536)
            except ConnectionError:
                return
            if not piece:
                return
            found += piece


def test_a_caller_who_leaves_keeps_what_was_said(
    ask: Ask, keeper: Gateway, upstream: Upstream
) -> None:
    session = str(ask("POST", "", {"model": OPENAI}).json()["id"])

    async def slow(asked: Asked, peer: Peer) -> None:
        peer.begin()
        peer.piece(chunk(content="Once upon"))
        await asyncio.Event().wait()

    upstream.script = slow
    leave_in_the_middle(keeper, session, {**said("A tale"), "stream": True}, until=b"Once upon")

    def messages() -> list[Any]:
        found: list[Any] = ask("GET", f"/{session}").json()["messages"]
        return found

    wait_until(lambda: len(messages()) == 2, seconds=10)
    assert messages()[1]["content"] == "Once upon"
    assert messages()[1]["status"] == "incomplete"
    upstream.script = echo
    began = time.monotonic()
    assert ask("POST", f"/{session}/chat", said("Go on")).status == 200
    assert time.monotonic() - began < 5


def test_a_killed_server_leaves_no_half_turn_and_no_turn_that_lasts(
    provider: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(configured(provider))
        gateway.start()
        try:
            provider.script = echo
            session = str(ask_at(gateway, "POST", "", {"model": OPENAI}).json()["id"])
            assert ask_at(gateway, "POST", f"/{session}/chat", said("One")).status == 200

            async def slow(asked: Asked, peer: Peer) -> None:
                peer.begin()
                peer.piece(chunk(content="Once upon"))
                await asyncio.Event().wait()

            provider.script, provider.asked = slow, []
            turn = threading.Thread(
                target=leave_in_the_middle,
                args=(gateway, session, {**said("Two"), "stream": True}),
                kwargs={"until": b""},
            )
            turn.start()
            wait_until(lambda: bool(provider.asked), seconds=10)
            gateway.kill()
            turn.join(timeout=10)
            gateway.start()
            messages = ask_at(gateway, "GET", f"/{session}").json()["messages"]
            assert [each["content"] for each in messages] == ["One", "I was told 1."]
            provider.script = echo
            answered = ask_at(gateway, "POST", f"/{session}/chat", said("Three"))
            assert answered.json()["choices"][0]["message"]["content"] == "I was told 3."
            rows = gateway.wait_for_rows(3)
            assert sorted(row.status for row in rows) == ["interrupted", "success", "success"]
            found = ask_at(gateway, "GET", f"/{session}").json()
            assert found["total_tokens"] == sum(
                row.tokens_input + row.tokens_output for row in rows
            )
            assert Decimal(found["total_cost"]) > 2 * Decimal("0.000015")
        finally:
            gateway.stop()


def test_who_leaves_after_the_last_word_has_heard_it_all(
    ask: Ask, keeper: Gateway, upstream: Upstream
) -> None:
    session = str(ask("POST", "", {"model": OPENAI}).json()["id"])

    async def dawdling(asked: Asked, peer: Peer) -> None:
        peer.begin()
        peer.piece(chunk(content="The end."))
        peer.piece(chunk("stop"))
        await asyncio.Event().wait()

    upstream.script = dawdling
    leave_in_the_middle(keeper, session, {**said("A tale"), "stream": True}, until=b'"stop"')
    wait_until(lambda: len(ask("GET", f"/{session}").json()["messages"]) == 2, seconds=10)
    last = ask("GET", f"/{session}").json()["messages"][1]
    assert last["content"] == "The end."
    assert "status" not in last


def test_a_caller_who_leaves_the_queue_holds_nobody_up(
    ask: Ask, keeper: Gateway, upstream: Upstream
) -> None:
    session = str(ask("POST", "", {"model": OPENAI}).json()["id"])
    upstream.script = silence
    with closing(open_turn(keeper, session, said("One"))):
        wait_until(lambda: bool(upstream.asked), seconds=10)
        for number in range(3):
            open_turn(keeper, session, said(f"Waits {number}")).close()
        upstream.script = echo
    began = time.monotonic()
    assert ask("POST", f"/{session}/chat", said("Two")).status == 200
    assert time.monotonic() - began < 5  # places that are left behind hold for twice as long
    kept = [each["content"] for each in ask("GET", f"/{session}").json()["messages"]]
    assert kept == ["Two", "I was told 1."]


def open_turn(gateway: Gateway, session: str, body: Any) -> socket.socket:
    """Asks for a turn."""
    raw = json.dumps(body).encode()
    caller = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    caller.sendall(
        f"POST /v1/sessions/{session}/chat HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(raw)}\r\n\r\n".encode()
        + raw
    )
    return caller
