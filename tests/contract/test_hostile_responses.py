"""A provider that speaks the Responses API itself: whatever bytes come from it, an answer or a
GatewayError. The kinds that can are asked in chat completions by everybody else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.errors import GatewayError, UpstreamError, UpstreamUnreachable
from chat.requests import ChatRequest
from chat.types import Reply
from tests.contract.stage import HttpStage, complete, stream
from tests.contract.test_failures import STATUSES, expect, keeps_quiet, telltales
from tests.contract.test_hostile import NO_ANSWER, NO_JSON, changed, changes, check, raw
from tests.responses.calls import response, typed

pytestmark = pytest.mark.once

CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "now", "arguments": ""}
EVENTS: list[dict[str, Any]] = [
    {"type": "response.created", "response": {**response(), "status": "in_progress", "output": []}},
    {"type": "response.output_text.delta", "output_index": 0, "delta": "Hel"},
    {"type": "response.output_text.delta", "output_index": 0, "delta": "lo"},
    {"type": "response.output_item.added", "output_index": 1, "item": CALL},
    {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
    {"type": "response.output_item.done", "output_index": 1, "item": {**CALL, "arguments": "{}"}},
    {"type": "response.completed", "response": response("Hello")},
]
FAILED = {"type": "response.failed", "response": {**response(), "status": "failed", "error": {}}}
ENDS: list[dict[str, Any]] = [
    EVENTS[-1],
    FAILED,
    {"type": "error", "code": "server_error", "message": "told", "param": None},
]


def native(*, streams: bool) -> tuple[HttpStage, ChatRequest]:
    """A caller on the wire of responses, and the stage it asks on."""
    stage = HttpStage("openai", "openai")
    request = stage.request(stream=streams)
    request.wire = "responses"
    request.native = {"model": "x", "input": "Hello", "stream": streams}
    return stage, request


@pytest.mark.parametrize("body", (NO_JSON | NO_ANSWER).values(), ids=(NO_JSON | NO_ANSWER).keys())
async def test_a_good_status_with_a_bad_body_is_an_upstream_error(body: bytes) -> None:
    stage, request = native(streams=False)
    assert isinstance(await complete(stage.answering(body), request), UpstreamError)
    stage, request = native(streams=True)
    assert isinstance((await stream(stage.answering(body), request)).error, UpstreamError)
    assert isinstance((await stream(stage.streaming([body]), request)).error, UpstreamError)


@pytest.mark.parametrize("status", [status for status in STATUSES if status != 404])
async def test_a_status_is_an_error_of_the_right_class(status: int) -> None:
    for streams in (True, False):
        stage, request = native(streams=streams)
        body = json.dumps(stage.dialect.error("told")).encode()
        adapter = stage.answering(body, status)
        error = (await stream(adapter, request)).error
        expect(error, status)


async def test_an_end_is_never_invented_wherever_a_stream_is_cut() -> None:
    stage, request = native(streams=True)
    whole = b"".join(typed({**event, "sequence_number": at}) for at, event in enumerate(EVENTS))
    last = len(typed({**EVENTS[-1], "sequence_number": len(EVENTS) - 1}))
    for cut in [*range(0, len(whole) - last, 11), len(whole) - last, len(whole) - 9]:
        got = await stream(stage.streaming([whole[:cut]]), request)
        assert isinstance(got.error, UpstreamUnreachable), cut
        assert got.finishes == []
    assert (await stream(stage.streaming([whole]), request)).error is None


async def test_a_failure_in_band_tells_no_secret() -> None:
    stage, request = native(streams=True)
    told = {"code": "server_error", "message": telltales("10.9.8.7:65000")}
    failed = {**FAILED, "response": {**FAILED["response"], "error": told}}  # type: ignore[dict-item]
    for last in (failed, {"type": "error", **told}):
        got = await stream(stage.streaming([typed(EVENTS[1]), typed(last)]), request)
        keeps_quiet(got.error, "10.9.8.7:65000")
        assert b"10.9.8.7" not in got.wire


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    place=st.integers(0, 50), change=changes(), end=st.sampled_from(ENDS), together=st.booleans()
)
async def test_any_change_to_an_event_is_survived(
    place: int, change: list[tuple[int, Any]], end: dict[str, Any], together: bool
) -> None:
    stage, request = native(streams=True)
    events = [*EVENTS[:-1], end]
    packets = [typed(event) for event in events]
    at = place % len(events)
    head, _, _ = packets[at].partition(b"data: ")
    packets[at] = head + b"data: " + raw(changed(events[at], change)) + b"\n\n"
    if together:
        packets = [b"".join(packets)]
    check(await stream(stage.streaming(packets), request))


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(change=changes())
async def test_any_change_to_a_whole_answer_is_survived(change: list[tuple[int, Any]]) -> None:
    stage, request = native(streams=False)
    replied = await complete(stage.answering(raw(changed(response(), change))), request)
    assert isinstance(replied, Reply | GatewayError)
    stage, request = native(streams=True)
    check(await stream(stage.answering(raw(changed(response(), change))), request))
