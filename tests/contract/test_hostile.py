"""Whatever bytes come from an upstream, an adapter answers or raises a GatewayError."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.errors import GatewayError, UpstreamError
from chat.types import FINISH_REASONS, Reply, encode
from tests.contract.dialects import Answer, Call
from tests.contract.stage import HttpStage, Streamed, complete, stream

pytestmark = pytest.mark.once

NO_JSON = {
    "nothing": b"",
    "blanks": b" \n\t ",
    "words": b"garbage",
    "a page of HTML": b"<html><body>Sign in</body></html>",
    "half of JSON": b'{"id": "x", "choices": [{"ind',
    "bytes that are no text": b'"\xff\xfe"',
    "a zero byte": b"\x00",
    "a zero byte in JSON": b'{"id": "\x00"}',
    "a gap in JSON": b'{"id": "a\nb"',
    "UTF-16": json.dumps({"choices": []}).encode("utf-16"),
    "half a surrogate": b'{"id": "\\ud800", "type": "\\udfff", "choices": [], "message": {}}',
    "objects without end": b'{"choices":' * 100_000,
    "lists without end": b"[" * 100_000,
    "lists that end": b"[" * 50_000 + b"]" * 50_000,
    "a deep value": b'{"choices": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "NaN": b'{"choices": NaN}',
}
NO_ANSWER = {
    "two values": b"{}{}",
    "null": b"null",
    "true": b"true",
    "a number": b"17",
    "a huge number": b"9" * 5000,
    "an infinite number": b"1e999",
    "a string": b'"Hello"',
    "a list": b"[]",
    "a list of lists": b"[[], {}, null]",
    "an empty object": b"{}",
    "no choices": b'{"choices": null, "content": null, "message": null}',
    "empty choices": b'{"choices": [], "message": {}}',
    "null choices": b'{"choices": [null], "content": [null], "message": [null]}',
    "an empty error": b'{"error": {}}',
    "an error of words": b'{"error": "no"}',
    "an error of nothing": b'{"error": false}',
    "another object": b'{"object": "list", "type": "list", "data": [{"id": 1}]}',
}
SAYING = Answer(
    thoughts=("Hmm", "."),
    words=("Hel", "lo"),
    calls=(
        Call("call_1", "get_weather", ('{"city": ', '"Paris"}')),
        Call("call_2", "now", ("{}",)),
    ),
)


@pytest.mark.parametrize("body", (NO_JSON | NO_ANSWER).values(), ids=(NO_JSON | NO_ANSWER).keys())
async def test_a_good_status_with_a_bad_body_is_an_upstream_error(
    http_stage: HttpStage, body: bytes
) -> None:
    replied = await complete(http_stage.answering(body), http_stage.request(stream=False))
    assert isinstance(replied, UpstreamError), replied
    got = await stream(http_stage.answering(body), http_stage.request(stream=True))
    assert isinstance(got.error, UpstreamError)
    assert (got.text, got.finishes) == ("", [])


@pytest.mark.parametrize("body", (NO_JSON | NO_ANSWER).values(), ids=(NO_JSON | NO_ANSWER).keys())
async def test_a_stream_of_something_else_is_an_upstream_error(
    http_stage: HttpStage, body: bytes
) -> None:
    for packets in ([body], [http_stage.dialect.odd_event(body)]):
        got = await stream(http_stage.streaming(packets), http_stage.request(stream=True))
        assert isinstance(got.error, UpstreamError)
        assert (got.text, got.finishes) == ("", [])


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
async def test_a_stream_with_an_unreadable_event_keeps_what_came_before_it(
    http_stage: HttpStage, body: bytes
) -> None:
    dialect = http_stage.dialect
    said, ended = dialect.said(SAYING), dialect.ended(SAYING)
    events = [*said, dialect.odd_event(body.replace(b"\n", b"")), *ended]
    for packets in (events, [b"".join(events)]):
        got = await stream(http_stage.streaming(packets), http_stage.request(stream=True))
        assert got.text == "Hello"
        if body.strip():
            assert isinstance(got.error, UpstreamError)
            assert got.finishes == []


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
async def test_a_listing_that_is_none_is_an_upstream_error(
    http_stage: HttpStage, body: bytes
) -> None:
    with pytest.raises(UpstreamError):
        await http_stage.answering(body).list_models()


@pytest.mark.parametrize("body", NO_ANSWER.values(), ids=NO_ANSWER.keys())
async def test_a_listing_of_something_else_lists_nothing(
    http_stage: HttpStage, body: bytes
) -> None:
    with contextlib.suppress(UpstreamError):
        assert await http_stage.answering(body).list_models() == []


async def test_a_text_that_is_none_is_an_upstream_error(http_stage: HttpStage) -> None:
    dialect, bad = http_stage.dialect, b"\xff\xc3"
    for text in (b"Hello", b"Paris", b"Hmm"):
        body = json.dumps(dialect.whole(SAYING)).encode().replace(text, bad)
        replied = await complete(http_stage.answering(body), http_stage.request(stream=False))
        assert isinstance(replied, UpstreamError), text
    events = [each.replace(b'"lo"', b'"%b"' % bad) for each in dialect.stream(SAYING)]
    for packets in (events, [b"".join(events)]):
        got = await stream(http_stage.streaming(packets), http_stage.request(stream=True))
        assert isinstance(got.error, UpstreamError)
        assert (got.text, got.finishes) == ("Hel", [])


# --- right answers with something wrong in them -------------------------------------------------

HUGE, DEEP = "HUGE", "DEEP"
SCALARS = [None, True, -1, 0, 10**18, 2**63, 10**30, -(2**70), 1.5, 1e308, HUGE]
TEXTS = ["", "\x00", "stop", "\ufffd\U0001f600"]
VALUES: list[Any] = [
    [],
    {},
    [None],
    [[[]]],
    {"type": "text"},
    [{"type": "text", "text": 1}],
    {"": {"": None}},
]
ODD: st.SearchStrategy[Any] = st.sampled_from([*SCALARS, *TEXTS, *VALUES, DEEP])
LEFT_OUT = object()


def raw(value: Any) -> bytes:
    written = json.dumps(value).encode().replace(b'"HUGE"', b"1e999")
    return written.replace(b'"DEEP"', b"[" * 500 + b"]" * 500)


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[int, Any]]:
    """Places of a value, counted through, and what comes there."""
    return draw(
        st.lists(st.tuples(st.integers(0, 200), ODD | st.just(LEFT_OUT)), min_size=1, max_size=3)
    )


def changed(value: Any, change: list[tuple[int, Any]]) -> Any:
    """A JSON value with something else at some of its places."""
    value = json.loads(json.dumps(value))
    for place, odd in change:
        holders = list(walk(value))
        if not holders:
            return odd if odd is not LEFT_OUT else None
        holder, key = holders[place % len(holders)]
        if odd is not LEFT_OUT:
            holder[key] = copy.deepcopy(odd)
        else:
            del holder[key]
    return value


def walk(value: Any) -> Any:
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list) and value[key]:
            yield from walk(value[key])


def check(got: Streamed) -> None:
    """What comes of any stream can be encoded, and ends for one of the reasons there are."""
    for chunk in got.chunks:
        json.loads(encode(chunk))
    assert set(got.finishes) <= FINISH_REASONS
    json.dumps(got.completion)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(change=changes())
async def test_any_change_to_a_whole_answer_is_survived(
    wire_stage: HttpStage, change: list[tuple[int, Any]]
) -> None:
    body = raw(changed(wire_stage.dialect.whole(SAYING), change))
    replied = await complete(wire_stage.answering(body), wire_stage.request(stream=False))
    if isinstance(replied, Reply):
        assert isinstance(json.loads(replied.body), dict)
        assert replied.finish_reason is None or replied.finish_reason in FINISH_REASONS
        assert replied.text_bytes >= 0
    check(await stream(wire_stage.answering(body), wire_stage.request(stream=True)))


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 50), change=changes(), together=st.booleans())
async def test_any_change_to_an_event_is_survived(
    wire_stage: HttpStage, place: int, change: list[tuple[int, Any]], together: bool
) -> None:
    events = wire_stage.dialect.stream(SAYING)
    place %= len(events)
    start = events[place].find(b"{")
    if start < 0:
        return
    value, size = json.JSONDecoder().raw_decode(events[place][start:].decode())
    rest = events[place][start:].decode()[size:].encode()
    events[place] = events[place][:start] + raw(changed(value, change)) + rest
    packets = [b"".join(events)] if together else events
    check(await stream(wire_stage.streaming(packets), wire_stage.request(stream=True)))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(order=st.lists(st.integers(0, 30), max_size=12))
async def test_events_in_any_order_are_survived(wire_stage: HttpStage, order: list[int]) -> None:
    events = wire_stage.dialect.stream(SAYING)
    packets = [events[place % len(events)] for place in order]
    check(await stream(wire_stage.streaming(packets), wire_stage.request(stream=True)))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(packets=st.lists(st.binary(min_size=1, max_size=40), max_size=6))
async def test_any_bytes_are_survived(wire_stage: HttpStage, packets: list[bytes]) -> None:
    got = await stream(wire_stage.streaming(packets), wire_stage.request(stream=True))
    assert got.error is not None or not got.chunks  # an empty stream is the dispatcher's to refuse
    check(got)
    body = b"".join(packets)
    replied = await complete(wire_stage.answering(body), wire_stage.request(stream=False))
    assert isinstance(replied, GatewayError)


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(change=changes())
async def test_any_change_to_a_listing_is_survived(
    wire_stage: HttpStage, change: list[tuple[int, Any]]
) -> None:
    body = raw(changed(wire_stage.dialect.listing(["one", "two"]), change))
    try:
        listed = await wire_stage.answering(body).list_models()
    except UpstreamError:
        return
    assert all(model.id.isprintable() for model in listed)
