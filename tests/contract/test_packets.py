"""However a stream is cut into packets: the same chunks, the same bytes, and for a caller on any
wire the same events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.errors import GatewayError
from chat.sse import SSEDecoder
from chat.types import Batch, ChatChunk, TokenCounts, encode
from gateway_api.anthropic.events import EventEncoder
from gateway_api.ollama.encoding import LineEncoder
from gateway_api.openai.chat import ChunkEncoder
from tests.contract.dialects import Answer, Call
from tests.contract.stage import HttpStage, Streamed, stream

pytestmark = pytest.mark.once

LOOP = Answer(
    thoughts=("Hm", " ü"),
    words=("Hé😀", "llo"),
    calls=(
        Call("call_1", "get_weather", ('{"city":', ' "Zürich"}')),
        Call("call_2", "now", ("{}",)),
    ),
)
SHORT = Answer(words=("é😀", "!"))


def streams(stage: HttpStage) -> dict[str, list[bytes]]:
    """Streams that end, that break off, and that tell an error."""
    dialect = stage.dialect
    return {
        "whole": dialect.stream(LOOP),
        "cut": dialect.said(LOOP),
        "failing": [*dialect.said(SHORT), dialect.error_event("told"), *dialect.ended(SHORT)],
        "broken": [*dialect.said(SHORT), dialect.odd_event(b"{]"), *dialect.ended(SHORT)],
    }


def seen(got: Streamed) -> Any:
    """What came of a stream, without what is made anew each time."""
    error = got.error
    ended = error and (type(error), error.message, error.retryable)
    return [forget(chunk) for chunk in got.chunks], got.wire, ended


def forget(chunk: ChatChunk) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(encode(chunk))
    return {**told, "created": 0, "id": "made" if told.get("id") else ""}


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in zip(edges, edges[1:], strict=False)]


async def read(stage: HttpStage, packets: list[bytes]) -> Streamed:
    return await stream(stage.streaming(packets), stage.request(stream=True))


async def test_every_cut_in_two_gives_the_same(http_stage: HttpStage) -> None:
    for events in streams(http_stage).values():
        expected = seen(await read(http_stage, events))
        raw = b"".join(events)
        for cut in range(1, len(raw), 5):
            assert seen(await read(http_stage, [raw[:cut], raw[cut:]])) == expected, cut


async def test_every_byte_on_its_own_gives_the_same(http_stage: HttpStage) -> None:
    for events in streams(http_stage).values():
        single = [bytes([byte]) for byte in b"".join(events)]
        expected = seen(await read(http_stage, events))
        assert seen(await read(http_stage, single)) == expected
        assert seen(await read(http_stage, [b"".join(events)])) == expected


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(0, 5000), max_size=15))
async def test_any_packets_give_the_same(wire_stage: HttpStage, cuts: list[int]) -> None:
    for events in streams(wire_stage).values():
        expected = seen(await read(wire_stage, events))
        assert seen(await read(wire_stage, pieces(b"".join(events), cuts))) == expected


# --- what callers see ---------------------------------------------------------------------------


def as_openai(batches: list[Batch]) -> list[Any]:
    encoder = ChunkEncoder(wants_usage=True)
    return [json.loads(event) for event in events_of(map(encoder.encode, batches))]


def as_anthropic(batches: list[Batch]) -> list[Any]:
    encoder = EventEncoder(model="m", stops=[])
    raw = [encoder.feed(batch) for batch in batches]
    raw.append(encoder.finish(TokenCounts(input=1, output=1)))
    return [json.loads(event) for event in events_of(iter(raw))]


def as_ollama(batches: list[Batch]) -> list[Any]:
    encoder = LineEncoder("m", generate=False)
    raw = b"".join(map(encoder.encode, batches)) + encoder.end(cast(Any, UNCOUNTED))
    return [json.loads(line) for line in raw.splitlines()]


UNCOUNTED = SimpleNamespace(
    counts=lambda: TokenCounts(input=1, output=1),
    call=SimpleNamespace(started=0.0),
    first_token_at=None,
    usage=None,
)


def events_of(raw: Iterator[bytes]) -> list[bytes]:
    decoder = SSEDecoder()
    return [event.data for each in raw for event in decoder.feed(each)]


ENCODERS: dict[str, Callable[[list[Batch]], list[Any]]] = {
    "openai": as_openai,
    "anthropic": as_anthropic,
    "ollama": as_ollama,
}


async def batches_of(stage: HttpStage, packets: list[bytes]) -> list[Batch]:
    found: list[Batch] = []
    try:
        async for batch in stage.streaming(packets).stream(stage.request(stream=True)):
            found.append(Batch(batch.chunks))
    except GatewayError:
        pass
    return found


MADE_ANEW = ("id", "created", "created_at")


def still(value: Any) -> Any:
    """A JSON value without what is made anew each time."""
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if not name.endswith("_duration")}
        return {name: still(each) for name, each in kept.items() if name not in MADE_ANEW}
    return [still(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS.keys())
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(0, 5000), max_size=15))
async def test_any_packets_give_a_caller_the_same_events(
    wire_stage: HttpStage, encoder: Callable[[list[Batch]], list[Any]], cuts: list[int]
) -> None:
    events = wire_stage.dialect.stream(LOOP)
    expected = encoder(await batches_of(wire_stage, events))
    got = encoder(await batches_of(wire_stage, pieces(b"".join(events), cuts)))
    assert still(got) == still(expected)


# --- any answer ---------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = TEXT | st.integers(-9, 9) | st.lists(TEXT, max_size=2)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=2)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    calls = []
    for number in range(draw(st.integers(0, 3))):
        raw = json.dumps(draw(ARGUMENTS), ensure_ascii=draw(st.booleans()))
        cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=4)))
        edges = [0, *cuts, len(raw)]
        fragments = [raw[start:end] for start, end in zip(edges, edges[1:], strict=False)]
        calls.append(Call(f"call_{number}", f"tool_{number}", tuple(fragments)))
    words = draw(st.lists(TEXT.filter(bool), min_size=0 if calls else 1, max_size=4))
    thoughts = draw(st.lists(TEXT.filter(bool), max_size=2))
    cut = draw(st.booleans()) and not calls
    return Answer(tuple(thoughts), tuple(words), tuple(calls), cut=cut)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(answer=answers(), cuts=st.lists(st.integers(0, 5000), max_size=10))
async def test_any_answer_reaches_any_caller_whole(
    wire_stage: HttpStage, answer: Answer, cuts: list[int]
) -> None:
    packets = pieces(b"".join(wire_stage.dialect.stream(answer)), cuts)
    batches = await batches_of(wire_stage, packets)
    calls = [(call.name, call.arguments) for call in answer.calls]

    chunks = [choice for each in as_openai(batches) for choice in each["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in chunks) == answer.text
    assert [each["finish_reason"] for each in chunks if each["finish_reason"]] == [answer.finish]
    assert openai_calls(chunks) == calls
    thoughts = [choice["delta"].get("reasoning_content") or "" for choice in chunks]
    assert "".join(thoughts) == "".join(answer.thoughts)

    events = as_anthropic(batches)
    assert anthropic_blocks(events) == (answer.text, calls)
    (reason,) = [each["delta"]["stop_reason"] for each in events if each["type"] == "message_delta"]
    assert (
        reason
        == {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[answer.finish]
    )

    messages = [each["message"] for each in as_ollama(batches)]
    assert "".join(message["content"] for message in messages) == answer.text
    functions = [each["function"] for message in messages for each in message.get("tool_calls", ())]
    assert [(each["name"], each["arguments"]) for each in functions] == calls


def openai_calls(chunks: list[Any]) -> list[tuple[str, Any]]:
    """Calls as a client adds them up: by index, each index begun with an id and in order."""
    made: list[list[str]] = []
    for choice in chunks:
        for call in choice["delta"].get("tool_calls") or ():
            if call.get("id"):
                assert call["index"] == len(made)
                made.append([call["function"]["name"], ""])
            made[call["index"]][1] += call.get("function", {}).get("arguments") or ""
    return [(name, json.loads(arguments)) for name, arguments in made]


def anthropic_blocks(events: list[Any]) -> tuple[str, list[tuple[str, Any]]]:
    """Blocks as a client adds them up: one open at a time, indices contiguous."""
    text, calls, at, fragments = "", list[tuple[str, Any]](), -1, ""
    block: Any = None
    for event in events:
        if event["type"] == "content_block_start":
            assert (block, event["index"]) == (None, at + 1)
            at, block, fragments = event["index"], event["content_block"], ""
        elif event["type"] == "content_block_delta":
            assert event["index"] == at
            text += event["delta"].get("text", "")
            fragments += event["delta"].get("partial_json", "")
        elif event["type"] == "content_block_stop":
            assert event["index"] == at
            if block["type"] == "tool_use":
                calls.append((block["name"], json.loads(fragments or "{}")))
            block = None
    assert block is None
    return text, calls
