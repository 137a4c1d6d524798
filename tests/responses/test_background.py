"""Background responses: made after their request was answered, seen and stopped by any worker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from django.utils import timezone

from sessions_app.responses import ABANDONED_AFTER_S
from tests.gateway import KEY, Gateway, wait_until
from tests.responses.calls import (
    MODEL,
    NATIVE,
    OTHER_KEY,
    begin_stream,
    call,
    check_numbers,
    create,
    open_stream,
    read_events,
    response,
    speaking_on,
)
from tests.responses.conftest import responses_configuration
from tests.upstream import Asked, Peer, Upstream, completion, scripted_upstream, silence, whole


def status_of(gateway: Gateway, response_id: str) -> str:
    found: str = call(gateway, "GET", f"/{response_id}").json()["status"]
    return found


def wait_for(gateway: Gateway, response_id: str, status: str, *, seconds: float = 10) -> Any:
    wait_until(
        lambda: status_of(gateway, response_id) == status,
        seconds=seconds,
        why=lambda: f"it is {status_of(gateway, response_id)}",
    )
    return call(gateway, "GET", f"/{response_id}").json()


async def after_a_while(asked: Asked, peer: Peer) -> None:
    await asyncio.sleep(0.3)
    peer.answer(200, json.dumps(completion("At last.")).encode())


def test_it_is_queued_at_once_and_completed_later(
    client: openai.OpenAI, served: Gateway, upstream: Upstream
) -> None:
    upstream.script = after_a_while
    queued = client.responses.create(model=MODEL, input="x", background=True)
    assert queued.status == "queued"
    assert queued.background is True
    done = wait_for(served, queued.id, "completed")
    assert done["output"][0]["content"][0]["text"] == "At last."
    assert done["background"] is True
    assert client.responses.retrieve(queued.id).output_text == "At last."


def test_a_native_one_can_be_gone_on_from(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, response("Native.", id="resp_background_upstream"))
    queued = create(served, model=NATIVE, background=True)
    assert "background" not in upstream.asked[0].json() if upstream.asked else True
    done = wait_for(served, queued["id"], "completed")
    assert done["id"] == queued["id"]
    assert done["output"][0]["content"][0]["text"] == "Native."
    upstream.script = whole(200, response(id="resp_after_background"))
    after = create(served, model=NATIVE, previous_response_id=queued["id"])
    assert upstream.asked[-1].json()["previous_response_id"] == "resp_background_upstream"
    assert after["previous_response_id"] == queued["id"]


def test_a_failure_is_a_failed_response_and_a_row(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(400, {"error": {"message": "no such thing", "code": "bad"}})
    queued = call(
        served,
        "POST",
        "",
        {"model": MODEL, "input": "x", "background": True},
        x_request_id="background-failed",
    ).json()
    failed = wait_for(served, queued["id"], "failed")
    assert failed["error"] == {"code": "invalid_prompt", "message": "no such thing", "param": None}
    wait_until(lambda: "background-failed" in {row.request_id for row in served.rows()}, seconds=10)


def test_it_outlives_its_caller(served: Gateway, upstream: Upstream) -> None:
    upstream.script = after_a_while
    queued = create(served, background=True)  # the connection is closed by now
    wait_for(served, queued["id"], "completed")


def test_a_running_one_cannot_be_gone_on_from(served: Gateway, upstream: Upstream) -> None:
    queued = create(served, background=True)
    body = {"model": MODEL, "input": "x", "previous_response_id": queued["id"]}
    assert call(served, "POST", "", body).status == 400
    call(served, "DELETE", f"/{queued['id']}")


def test_cancelling_lets_the_upstream_go(served: Gateway, upstream: Upstream) -> None:
    queued = create(served, background=True)
    wait_for(served, queued["id"], "in_progress")
    wait_until(lambda: len(upstream.asked) == 1, seconds=5)
    cancelled = call(served, "POST", f"/{queued['id']}/cancel")
    assert (cancelled.status, cancelled.json()["status"]) == (200, "cancelled")
    wait_until(lambda: len(upstream.left) == 1, seconds=1)
    again = call(served, "POST", f"/{queued['id']}/cancel")
    assert (again.status, again.json()["status"]) == (200, "cancelled")
    time.sleep(0.2)
    assert status_of(served, queued["id"]) == "cancelled"


def test_deleting_lets_the_upstream_go(served: Gateway, upstream: Upstream) -> None:
    queued = create(served, background=True)
    wait_until(lambda: len(upstream.asked) == 1, seconds=5)
    assert call(served, "DELETE", f"/{queued['id']}").status == 200
    wait_until(lambda: len(upstream.left) == 1, seconds=1)
    time.sleep(0.2)
    assert call(served, "GET", f"/{queued['id']}").status == 404


def test_one_that_was_not_in_the_background_cannot_be_cancelled(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion())
    made = create(served)
    assert call(served, "POST", f"/{made['id']}/cancel").status == 400


def test_another_key_cannot_cancel_it(served: Gateway, upstream: Upstream) -> None:
    queued = create(served, background=True)
    assert call(served, "POST", f"/{queued['id']}/cancel", key=OTHER_KEY).status == 404
    assert status_of(served, queued["id"]) in ("queued", "in_progress")
    call(served, "DELETE", f"/{queued['id']}")


# --- several workers ----------------------------------------------------------------------------


@pytest.fixture
def workers(tmp_path: Path, spare_database_url: str) -> Iterator[tuple[Upstream, Gateway, Gateway]]:
    """Two servers over one database, and their upstream."""
    with scripted_upstream(silence) as upstream:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        secret = {"ABSTRACTCORE_SECRET_KEY": "x" * 60}
        one = Gateway(tmp_path / "a", spare_database_url, environment=secret)
        two = Gateway(tmp_path / "b", spare_database_url, environment=secret)
        one.apply(responses_configuration(upstream.base_url))
        try:
            one.start()
            two.start()
            yield upstream, one, two
        finally:
            one.stop()
            two.stop()


def test_what_one_worker_made_another_knows_cancels_and_buries(
    workers: tuple[Upstream, Gateway, Gateway],
) -> None:
    upstream, one, two = workers
    upstream.script = whole(200, completion("Known."))
    made = create(one)
    assert call(two, "GET", f"/{made['id']}").json() == made
    create(two, input="And?", previous_response_id=made["id"])
    assert len(upstream.asked[-1].json()["messages"]) == 3

    upstream.script, upstream.asked = silence, []
    queued = create(one, background=True)
    wait_until(lambda: len(upstream.asked) == 1, seconds=5)
    assert call(two, "POST", f"/{queued['id']}/cancel").json()["status"] == "cancelled"
    wait_until(lambda: len(upstream.left) == 1, seconds=1)
    assert status_of(one, queued["id"]) == "cancelled"

    upstream.asked = []
    upstream.script = speaking_on
    doomed = create(one, background=True)
    begun = begin_stream(one, until=4)
    wait_until(lambda: len(upstream.asked) == 2, seconds=5)
    time.sleep(1)  # the first events are in the database by then
    one.kill()
    assert status_of(two, doomed["id"]) == "in_progress"
    long_ago = timezone.now() - timedelta(seconds=ABANDONED_AFTER_S)
    two.execute(f"UPDATE sessions_app_storedresponse SET heartbeat_at = '{long_ago}'")
    with open_stream(two, begun) as events:  # another worker ends the stream its maker left
        got = list(events)
    assert {"response.created", "response.output_text.delta"} <= {each["type"] for each in got}
    assert got[-1]["type"] == "response.failed"
    assert got[-1]["response"]["error"]["code"] == "server_error"
    failed = wait_for(two, doomed["id"], "failed", seconds=25)
    assert failed["error"]["code"] == "server_error"
    one.start()
    assert call(one, "GET", f"/{made['id']}").json() == made


def test_a_stream_is_followed_and_cancelled_through_another_worker(
    workers: tuple[Upstream, Gateway, Gateway],
) -> None:
    upstream, one, two = workers
    upstream.script = speaking_on
    name = begin_stream(one, until=4)
    with open_stream(two, name, after=1) as there, open_stream(one, name) as here:
        head = [next(there) for _ in range(6)]
        assert [each["sequence_number"] for each in head] == [2, 3, 4, 5, 6, 7]
        assert call(two, "POST", f"/{name}/cancel").json()["status"] == "cancelled"
        for events in (there, here):
            last = list(events)[-1]
            assert last["type"] == "response.incomplete"
            assert last["response"]["status"] == "cancelled"
    wait_until(lambda: len(upstream.left) == 1, seconds=1)
    again = read_events(call(one, "GET", f"/{name}?stream=true").body)
    assert again == read_events(call(two, "GET", f"/{name}?stream=true").body)
    check_numbers(again)


def test_a_worker_that_stops_says_what_became_of_its_responses(
    workers: tuple[Upstream, Gateway, Gateway],
) -> None:
    upstream, one, two = workers
    queued = create(one, background=True)
    wait_until(lambda: len(upstream.asked) == 1, seconds=5)
    one.stop()
    assert status_of(two, queued["id"]) == "failed"


def test_the_sdk_waits_for_one_as_its_documentation_says(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = after_a_while
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.responses.create(model=MODEL, input="x", background=True)
        while answer.status in {"queued", "in_progress"}:
            time.sleep(0.05)
            answer = client.responses.retrieve(answer.id)
    assert answer.output_text == "At last."
