"""Streams of background responses: left, come back to, resumed behind any event."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.gateway import Gateway, wait_until
from tests.responses.calls import (
    MODEL,
    NATIVE,
    OTHER_KEY,
    begin_stream,
    call,
    check_numbers,
    create,
    in_turn,
    open_stream,
    read_events,
    response,
    speaking_on,
    typed,
    typed_events,
)
from tests.upstream import Asked, Peer, Upstream, chunk, chunks, completion, streaming, whole

HEAD = ["response.created", "response.queued", "response.in_progress"]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [each["type"] for each in events]


def script_of(model: str) -> Any:
    told = typed_events(response("Hello there.", id="resp_upstream_streamed"))
    return streaming(told if model == NATIVE else chunks("Hello", " there."))


@pytest.mark.parametrize("model", [MODEL, NATIVE])
def test_the_sdk_streams_one_and_resumes_it_behind_every_event(
    client: openai.OpenAI, upstream: Upstream, model: str
) -> None:
    upstream.script = script_of(model)
    stream = client.responses.create(model=model, input="x", background=True, stream=True)
    events: list[Any] = [event.to_dict() for event in stream]
    check_numbers(events)
    assert types(events)[:3] == HEAD
    assert types(events)[-1] == "response.completed"
    sent = upstream.asked[-1].json()
    assert (sent["stream"], "background" in sent) == (True, False)
    name = events[0]["response"]["id"]
    assert {each["response"]["id"] for each in events if "response" in each} == {name}
    assert events[0]["response"]["status"] == "queued"
    stored = client.responses.retrieve(name)
    assert stored.to_dict() == events[-1]["response"]
    assert (stored.output_text, stored.background) == ("Hello there.", True)
    for number in range(-1, len(events)):
        after: Any = {} if number < 0 else {"starting_after": number}
        rest = client.responses.retrieve(name, stream=True, **after)
        assert [event.to_dict() for event in rest] == events[number + 1 :]
    with client.responses.stream(response_id=name, starting_after=4) as again:
        assert again.get_final_response().output_text == "Hello there."


def test_it_goes_on_when_its_caller_leaves(served: Gateway, upstream: Upstream) -> None:
    pieces = chunks(*(f"{number} " for number in range(20)))
    upstream.script = streaming(pieces, pause_s=0.03)
    name = begin_stream(served, until=5)
    with open_stream(served, name, after=3) as events:  # while it is being made
        rest = list(events)
    assert [each["sequence_number"] for each in rest] == list(range(4, 4 + len(rest)))
    assert rest[-1]["type"] == "response.completed"
    assert upstream.left == []
    found = call(served, "GET", f"/{name}").json()
    assert found == rest[-1]["response"]
    said = "".join(each["delta"] for each in rest if each["type"].endswith("text.delta"))
    assert found["output"][0]["content"][0]["text"].endswith(said)


def test_cancelling_ends_it_for_everybody(served: Gateway, upstream: Upstream) -> None:
    upstream.script = speaking_on
    with open_stream(served) as first:
        name = next(first)["response"]["id"]
        with open_stream(served, name) as second:
            next(second)
            assert call(served, "POST", f"/{name}/cancel").json()["status"] == "cancelled"
            for events in (first, second):
                last = list(events)[-1]
                assert last["type"] == "response.incomplete"
                assert last["response"]["status"] == "cancelled"
    wait_until(lambda: len(upstream.left) == 1, seconds=1)
    check_numbers(read_events(call(served, "GET", f"/{name}?stream=true").body))


def test_deleting_ends_it(served: Gateway, upstream: Upstream) -> None:
    upstream.script = speaking_on
    with open_stream(served) as events:
        name = next(events)["response"]["id"]
        assert call(served, "DELETE", f"/{name}").status == 200
        assert list(events)[-1]["type"] == "error"
    assert call(served, "GET", f"/{name}?stream=true").status == 404


def test_a_failure_before_anything_was_said_is_its_end(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(400, {"error": {"message": "no such thing", "code": "bad"}})
    with open_stream(served) as told:
        events = list(told)
    assert types(events) == [*HEAD[:2], "response.failed"]
    failed = events[-1]["response"]
    assert failed["error"] == {"code": "invalid_prompt", "message": "no such thing", "param": None}
    assert call(served, "GET", f"/{failed['id']}").json() == failed


async def breaking_off(asked: Asked, peer: Peer) -> None:
    peer.begin()
    pieces = typed_events(response())[:5] if asked.path.endswith("/responses") else [chunk("")]
    for piece in pieces:
        peer.piece(piece)
    peer.piece(chunk(content="Hel") if len(pieces) == 1 else b": x\n\n")
    peer.end()


@pytest.mark.parametrize("model", [MODEL, NATIVE])
def test_a_stream_that_breaks_off_has_failed(
    served: Gateway, upstream: Upstream, model: str
) -> None:
    upstream.script = breaking_off
    with open_stream(served, model=model) as told:
        events = list(told)
    check_numbers(events)
    assert events[-1]["type"] == "response.failed"
    assert call(served, "GET", f"/{events[0]['response']['id']}").json() == events[-1]["response"]


def test_a_provider_that_says_how_it_failed_is_believed(
    served: Gateway, upstream: Upstream
) -> None:
    broken = response(status="failed", output=[], error={"code": "server_error", "message": "No."})
    end = {"type": "response.failed", "sequence_number": 5, "response": broken}
    upstream.script = streaming([*typed_events(response())[:5], typed(end)])
    with open_stream(served, model=NATIVE) as told:
        events = list(told)
    name = events[0]["response"]["id"]
    assert events[-1]["response"] == {**broken, "id": name, "background": True}
    assert call(served, "GET", f"/{name}").json() == events[-1]["response"]


def test_it_can_be_gone_on_from(served: Gateway, upstream: Upstream) -> None:
    upstream.script = in_turn(script_of(NATIVE), whole(200, response(id="resp_after_stream")))
    with open_stream(served, model=NATIVE) as told:
        name = list(told)[0]["response"]["id"]
    create(served, model=NATIVE, previous_response_id=name)
    assert upstream.asked[-1].json()["previous_response_id"] == "resp_upstream_streamed"


def test_only_background_responses_made_with_stream_are_streamed_again(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion())
    for background in (False, True):
        made = create(served, background=background)
        answered = call(served, "GET", f"/{made['id']}?stream=true")
        assert (answered.status, answered.json()["error"]["param"]) == (400, "stream")


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "%D9%A3", "9" * 30])
def test_a_number_that_is_none_is_refused(served: Gateway, upstream: Upstream, number: str) -> None:
    upstream.script = script_of(MODEL)
    with open_stream(served) as told:
        name = list(told)[0]["response"]["id"]
    answered = call(served, "GET", f"/{name}?stream=true&starting_after={number}")
    assert (answered.status, answered.json()["error"]["param"]) == (400, "starting_after")


def test_another_keys_stream_does_not_exist(served: Gateway, upstream: Upstream) -> None:
    upstream.script = script_of(MODEL)
    with open_stream(served) as told:
        name = list(told)[0]["response"]["id"]
    theirs = call(served, "GET", f"/{name}?stream=true", key=OTHER_KEY)
    assert (theirs.status, theirs.json()["error"]["code"]) == (404, "response_not_found")


def test_its_row_in_the_ledger_is_one_successful_stream(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = script_of(MODEL)
    body = {"model": MODEL, "input": "x", "background": True, "stream": True}
    call(served, "POST", "", body, x_request_id="streamed-in-background")

    def rows() -> list[tuple[str, bool]]:
        named = [row for row in served.rows() if row.request_id == "streamed-in-background"]
        return [(row.status, row.stream) for row in named]

    wait_until(lambda: rows() == [("success", True)], seconds=10)


def test_who_asks_for_its_head_does_not_wait_for_its_end(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = speaking_on
    name = begin_stream(served, until=3)
    assert call(served, "HEAD", f"/{name}?stream=true").status == 200
    call(served, "DELETE", f"/{name}")
