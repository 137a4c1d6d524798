"""What comes to a session while a turn of it goes on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.gateway import Answered, wait_until
from tests.sessions_app.conftest import OPENAI, Ask, echo, said
from tests.upstream import DONE, Asked, Peer, Upstream, chunk, completion


class Turn:
    """A turn whose upstream answers when it is let."""

    def __init__(self, ask: Ask, upstream: Upstream, session: str, *, stream: bool) -> None:
        self._go_on = threading.Event()
        self._answered: list[Answered] = []
        upstream.script, upstream.asked = self._script, []
        body = {**said("Two"), "stream": stream}

        def run() -> None:
            self._answered.append(ask("POST", f"/{session}/chat", body))

        self._thread = threading.Thread(target=run)
        self._thread.start()
        wait_until(lambda: bool(upstream.asked), seconds=10)

    async def _script(self, asked: Asked, peer: Peer) -> None:
        stream = asked.json().get("stream")
        if stream:
            peer.begin()
            peer.piece(chunk(content="Here "))
        await asyncio.to_thread(self._go_on.wait, 20)
        if not stream:
            peer.answer(200, json.dumps(completion("Here it is.")).encode())
            return
        for piece in (chunk(content="it is."), chunk("stop"), DONE):
            peer.piece(piece)
        peer.end()

    def end(self) -> Answered:
        self._go_on.set()
        self._thread.join(20)
        return self._answered[0]


@pytest.fixture
def session(ask: Ask) -> str:
    made = ask("POST", "", {"model": OPENAI})
    name = str(made.json()["id"])
    assert ask("POST", f"/{name}/chat", said("One")).status == 200
    return name


@contextmanager
def turn(ask: Ask, upstream: Upstream, session: str, *, stream: bool = False) -> Iterator[Turn]:
    going_on = Turn(ask, upstream, session, stream=stream)
    try:
        yield going_on
    finally:
        going_on.end()


def contents(ask: Ask, session: str) -> list[Any]:
    return [each["content"] for each in ask("GET", f"/{session}").json()["messages"]]


@pytest.mark.parametrize("stream", [False, True])
def test_who_deletes_a_session_need_not_wait_and_its_turn_ends_for_its_caller(
    ask: Ask, upstream: Upstream, session: str, stream: bool
) -> None:
    with turn(ask, upstream, session, stream=stream) as going_on:
        deleted = ask("DELETE", f"/{session}")
        assert deleted.json() == {"status": "deleted", "session_id": session}
        answered = going_on.end()
    assert answered.status == 200, answered.body
    assert b"it is." in answered.body
    assert answered.body.endswith(b"data: [DONE]\n\n") is stream
    assert ask("GET", f"/{session}").status == 404


def test_turns_that_wait_for_a_session_that_is_deleted_find_none(
    ask: Ask, upstream: Upstream, session: str
) -> None:
    with turn(ask, upstream, session):
        waiting: list[Answered] = []
        asking = threading.Thread(
            target=lambda: waiting.append(ask("POST", f"/{session}/chat", said("Three")))
        )
        asking.start()
        time.sleep(0.5)
        ask("DELETE", f"/{session}")
        asking.join(20)
    assert (waiting[0].status, waiting[0].json()["error"]["code"]) == (404, "session_not_found")


def test_a_change_in_the_middle_of_a_turn_holds_from_the_next_one(
    ask: Ask, upstream: Upstream, session: str
) -> None:
    with turn(ask, upstream, session) as going_on:
        changed = ask("PATCH", f"/{session}", {"system_prompt": "Be brief.", "metadata": {"a": 1}})
        assert changed.status == 200
        assert going_on.end().status == 200
    upstream.script = echo
    assert ask("POST", f"/{session}/chat", said("Three")).status == 200
    first = upstream.asked[-1].json()["messages"][0]
    assert first == {"role": "system", "content": "Be brief."}
    found = ask("GET", f"/{session}").json()
    assert (found["metadata"], found["message_count"]) == ({"a": 1}, 6)


def test_branches_and_exports_in_the_middle_of_a_turn_hold_what_was_said_before_it(
    ask: Ask, upstream: Upstream, session: str
) -> None:
    with turn(ask, upstream, session, stream=True) as going_on:
        branch = ask("POST", f"/{session}/fork").json()
        exported = ask("GET", f"/{session}/export").json()
        assert going_on.end().status == 200
    assert branch["message_count"] == len(exported["messages"]) == 2
    assert contents(ask, session) == ["One", "I was told 1.", "Two", "Here it is."]
    upstream.script = echo
    assert ask("POST", f"/{branch['id']}/chat", said("Other")).status == 200


def test_summing_up_waits_for_the_turn_that_goes_on(
    ask: Ask, upstream: Upstream, session: str
) -> None:
    compacted: list[Answered] = []
    with turn(ask, upstream, session) as going_on:
        summing = threading.Thread(
            target=lambda: compacted.append(ask("POST", f"/{session}/compact"))
        )
        summing.start()
        time.sleep(0.5)
        assert not compacted
        assert going_on.end().status == 200
        summing.join(20)
    assert compacted[0].json()["compacted_messages"] == 2


def test_waiting_for_another_turn_is_no_work_of_the_gateway(
    ask: Ask, upstream: Upstream, session: str
) -> None:
    with turn(ask, upstream, session) as going_on:
        waited: list[Answered] = []
        asking = threading.Thread(
            target=lambda: waited.append(ask("POST", f"/{session}/chat", said("Three")))
        )
        asking.start()
        time.sleep(2)
        going_on.end()
        asking.join(20)
    assert waited[0].status == 200
    assert float(waited[0].headers["x-gateway-overhead-ms"]) < 1500
    assert float(waited[0].headers["openai-processing-ms"]) > 1500
