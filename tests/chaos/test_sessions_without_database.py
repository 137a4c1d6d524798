"""Sessions whose database goes away in the middle of a turn."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.outage import taken_away
from tests.conftest import spare_database
from tests.gateway import KEY, Answered, Gateway, running_gateway, wait_until
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Upstream,
    chunk,
    completion,
    scripted_upstream,
    silence,
)


@contextmanager
def database_away(url: str) -> Iterator[None]:
    """Postgres takes nobody; SQLite's file is another writer's."""
    if not url.startswith("sqlite:///"):
        with taken_away(url):
            yield
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("away")
    with (
        spare_database(folder) as url,
        running_gateway(folder, url, provider.base_url) as gateway,
    ):
        yield gateway


class Slow:
    """Answers when it is let."""

    def __init__(self, provider: Upstream) -> None:
        self.let = threading.Event()
        provider.script, provider.asked = self.script, []

    async def script(self, asked: Asked, peer: Peer) -> None:
        stream = asked.json().get("stream")
        if stream:
            peer.begin()
            peer.piece(chunk(content="Here "))
        await asyncio.to_thread(self.let.wait, 20)
        if stream:
            for piece in (chunk(content="it is."), chunk("stop"), DONE):
                peer.piece(piece)
            peer.end()
            return
        peer.answer(200, json.dumps(completion("Here it is.")).encode())


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def contents(gateway: Gateway, session: str) -> list[Any]:
    headers = {"authorization": f"Bearer {KEY}"}
    found = gateway.call("GET", f"/v1/sessions/{session}", None, headers).json()
    return [each["content"] for each in found["messages"]]


def asked_meanwhile(
    gateway: Gateway, provider: Upstream, path: str, body: Any, *, away_s: float
) -> Answered:
    """What is answered where the database is away from the question on, and back so much later
    than the upstream's answer."""
    slow, answered = Slow(provider), list[Answered]()
    asking = threading.Thread(target=lambda: answered.append(gateway.post(path, body)))
    asking.start()
    wait_until(lambda: bool(provider.asked), seconds=10)
    with database_away(gateway.database_url):
        slow.let.set()
        time.sleep(away_s)
    asking.join(25)
    return answered[0]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_waits_for_a_database_that_is_away_for_a_while(
    gateway: Gateway, provider: Upstream, stream: bool
) -> None:
    session = gateway.post("/v1/sessions", {"model": "smart"}).json()["id"]
    path = f"/v1/sessions/{session}/chat"
    answered = asked_meanwhile(gateway, provider, path, said("Hi", stream=stream), away_s=4)
    assert answered.status == 200, answered.body
    assert b"it is." in answered.body
    assert answered.body.endswith(b"data: [DONE]\n\n") is stream
    assert contents(gateway, session) == ["Hi", "Here it is."]
    Slow(provider).let.set()
    assert gateway.post(path, said("And now?")).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_to_be_stored_waits_for_the_database_too(
    gateway: Gateway, provider: Upstream, stream: bool
) -> None:
    body = {"model": "smart", "input": "Hi", "stream": stream}
    answered = asked_meanwhile(gateway, provider, "/v1/responses", body, away_s=4)
    assert answered.status == 200, answered.body
    if stream:
        last = answered.body.decode().strip().rpartition("\ndata: ")[2]
        response = json.loads(last)["response"]
    else:
        response = answered.json()
    headers = {"authorization": f"Bearer {KEY}"}
    found = gateway.call("GET", f"/v1/responses/{response['id']}", None, headers)
    assert (response["store"], found.status) == (True, 200)


def test_nothing_of_a_session_is_asked_of_a_database_that_is_away(
    gateway: Gateway, provider: Upstream
) -> None:
    if gateway.database_url.startswith("sqlite"):
        pytest.skip("a file that is another writer's can be read, and is waited for")
    session = gateway.post("/v1/sessions", {"model": "smart"}).json()["id"]
    Slow(provider).let.set()
    with database_away(gateway.database_url):
        for path, body in (("", {}), (f"/{session}/chat", said("Hi")), (f"/{session}/fork", {})):
            answered = gateway.post(f"/v1/sessions{path}", body)
            assert answered.status == 503, answered.body
            assert "retry-after" in answered.headers
    assert provider.asked == []
    wait_until(
        lambda: gateway.post(f"/v1/sessions/{session}/chat", said("Hi")).status == 200, seconds=15
    )
    assert contents(gateway, session) == ["Hi", "Here it is."]
