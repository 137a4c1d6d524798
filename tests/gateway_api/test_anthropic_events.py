"""Whatever order chunks come in, the events of the Anthropic wire are in order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from chat.errors import UpstreamFailed
from chat.sse import SSEDecoder
from chat.types import (
    Batch,
    ChatChunk,
    ChunkChoice,
    Delta,
    FunctionDelta,
    TokenCounts,
    ToolCallDelta,
)
from gateway_api.anthropic.events import PING, EventEncoder

pytestmark = pytest.mark.once

COUNTS = TokenCounts(input=10, output=5)
DELTAS = {
    "text": "text_delta",
    "thinking": "thinking_delta",
    "tool_use": "input_json_delta",
}
_event: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def text(content: str) -> Delta:
    return Delta(content=content)


def thought(content: str) -> Delta:
    return Delta(reasoning_content=content)


def start(at: int, id_: str | None = None, arguments: str = "") -> Delta:
    function = FunctionDelta(name=f"tool_{at}", arguments=arguments)
    call = ToolCallDelta(index=at, id=id_ or f"call_{at}", type="function", function=function)
    return Delta(tool_calls=[call])


def more(at: int, arguments: str) -> Delta:
    function = FunctionDelta(arguments=arguments)
    return Delta(tool_calls=[ToolCallDelta(index=at, function=function)])


def events_of(deltas: list[Delta], finish: Any = "stop") -> list[dict[str, Any]]:
    """The events of a stream of these deltas, one a batch, as a client reads them."""
    encoder = EventEncoder(model="m", stops=[])
    pieces = [encoder.feed(batch_of(delta)) for delta in deltas]
    pieces.append(encoder.feed(batch_of(Delta(), finish)))
    pieces.append(encoder.finish(COUNTS))
    decoder, found = SSEDecoder(), []
    for piece in pieces:
        for event in decoder.feed(piece):
            fields = json.loads(event.data)
            assert fields["type"] == event.type
            found.append(fields)
    return found


def batch_of(delta: Delta, finish: Any = None) -> Batch:
    return Batch([ChatChunk([ChunkChoice(0, delta, finish)], id="c", model="up")])


def check_order(events: list[dict[str, Any]]) -> None:
    """One start, contiguous indices, one open block, deltas of its type, and the end."""
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [kinds.count(kind) for kind in ("message_start", "message_delta")] == [1, 1]
    open_block: dict[str, Any] | None = None
    blocks = 0
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert open_block is None
            assert event["index"] == blocks
            open_block, blocks = event["content_block"], blocks + 1
            continue
        assert open_block is not None
        assert event["index"] == blocks - 1
        if event["type"] == "content_block_delta":
            kind = event["delta"]["type"]
            signs = kind == "signature_delta" and open_block["type"] == "thinking"
            assert signs or kind == DELTAS[open_block["type"]]
        else:
            assert event["type"] == "content_block_stop"
            open_block = None
    assert open_block is None


def read(events: list[dict[str, Any]]) -> Message:
    """The message as Anthropic's client adds it up."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for fields in events:
        event = _event.validate_python(fields)
        message = accumulate_event(event=event, current_snapshot=message, json_bufs=buffers)
    assert isinstance(message, Message)
    return message


# --- any order ----------------------------------------------------------------------------------

ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
CALLS = st.lists(st.dictionaries(st.text(max_size=4), ARGUMENTS, max_size=3), max_size=4)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[Delta], list[Any], str, str]:
    """Text, thoughts and calls in pieces, the pieces of different things in any order; and what
    they say."""
    calls = draw(CALLS)
    queues: list[list[Delta]] = []
    for at, arguments in enumerate(calls):
        pieces = split(draw, json.dumps(arguments))
        queues.append([start(at), *(more(at, piece) for piece in pieces)])
    words, thoughts = draw(st.text(max_size=20)), draw(st.text(max_size=20))
    queues.append([text(piece) for piece in split(draw, words)])
    queues.append([thought(piece) for piece in split(draw, thoughts)])
    deltas = []
    while queues := [queue for queue in queues if queue]:
        deltas.append(draw(st.sampled_from(queues)).pop(0))
    # Calls are told in the order of their first pieces, which the client must keep.
    order = [at for delta in deltas for at in starts_of(delta)]
    return deltas, [(f"call_{at}", f"tool_{at}", calls[at]) for at in order], words, thoughts


def starts_of(delta: Delta) -> list[int]:
    return [call.index for call in delta.tool_calls or () if call.id]


def split(draw: st.DrawFn, whole: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    borders = [0, *cuts, len(whole)]
    return [whole[a:b] for a, b in zip(borders, borders[1:], strict=False)]


@settings(max_examples=400, deadline=None)
@given(interleaved())
def test_any_order_of_pieces_gives_ordered_blocks_with_everything_in_them(
    case: tuple[list[Delta], list[Any], str, str],
) -> None:
    deltas, calls, words, thoughts = case
    events = events_of(deltas)
    check_order(events)
    message = read(events)
    assert "".join(block.text for block in message.content if block.type == "text") == words
    assert (
        "".join(block.thinking for block in message.content if block.type == "thinking") == thoughts
    )
    made = [
        (block.id, block.name, block.input) for block in message.content if block.type == "tool_use"
    ]
    assert made == calls
    assert message.stop_reason == ("tool_use" if calls else "end_turn")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(text, st.text(max_size=3))
        | st.builds(thought, st.text(max_size=3))
        | st.builds(
            start, st.integers(0, 3), st.sampled_from(["a", "b"]), st.text("{}1 ", max_size=3)
        )
        | st.builds(more, st.integers(0, 3), st.text('{}":1 ', max_size=4)),
        max_size=12,
    ),
    st.sampled_from(["stop", "length", "tool_calls", "content_filter", None]),
)
def test_any_deltas_give_ordered_events_or_a_failure(deltas: list[Delta], finish: Any) -> None:
    try:
        events = events_of(deltas, finish)
    except UpstreamFailed:
        return
    check_order(events)
    if finish not in ("length", "content_filter"):
        for block in read(events).content:
            assert block.type != "tool_use" or isinstance(block.input, dict)


# --- one thing each -----------------------------------------------------------------------------


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("content_block_") for event in events]


def test_a_call_is_passed_on_piece_by_piece_at_once() -> None:
    encoder = EventEncoder(model="m", stops=[])
    encoder.feed(batch_of(start(0)))
    for piece in ('{"a"', ": ", "1}"):
        sent = encoder.feed(batch_of(more(0, piece)))
        assert json.dumps(piece).encode() in sent


def test_a_second_call_begins_as_soon_as_the_first_is_whole() -> None:
    encoder = EventEncoder(model="m", stops=[])
    encoder.feed(batch_of(start(0, arguments='{"a": 1}')))
    sent = encoder.feed(batch_of(start(1)))
    assert b"content_block_stop" in sent
    assert b"tool_1" in sent


def test_calls_that_share_an_index_but_not_an_id_are_two() -> None:
    message = read(events_of([start(0, "a", "{}"), start(0, "b", '{"x": 1}')]))
    made = [(block.id, block.input) for block in message.content if block.type == "tool_use"]
    assert made == [("a", {}), ("b", {"x": 1})]


def test_an_id_and_a_name_that_come_again_are_not_another_call() -> None:
    message = read(events_of([start(0, "a", '{"x"'), start(0, "a", ": 1}")]))
    (block,) = message.content
    assert block.type == "tool_use"
    assert (block.id, block.name, block.input) == ("a", "tool_0", {"x": 1})


def test_a_call_without_an_id_gets_one() -> None:
    function = FunctionDelta(name="now", arguments="{}")
    delta = Delta(tool_calls=[ToolCallDelta(index=0, function=function)])
    (block,) = read(events_of([delta])).content
    assert block.type == "tool_use"
    assert block.id.startswith("toolu_")


@pytest.mark.parametrize("arguments", ["", " ", "{}", "null"])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    for pieces in ([arguments], list(arguments)):
        deltas = [start(0), *(more(0, piece) for piece in pieces)]
        (block,) = read(events_of(deltas, "tool_calls")).content
        assert block.type == "tool_use"
        assert block.input == {}


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "5", '"x"', '{"a": 1}}', '{"a": 1} x'])
@pytest.mark.parametrize("finish", ["stop", "tool_calls", None])
def test_arguments_that_are_no_object_never_end_in_a_stop(arguments: str, finish: Any) -> None:
    with pytest.raises(UpstreamFailed):
        events_of([start(0), more(0, arguments)], finish)


def test_an_answer_that_says_it_was_cut_may_end_within_a_call() -> None:
    events = events_of([start(0), more(0, '{"a": ')], "length")
    check_order(events)
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"


def test_what_follows_a_whole_call_after_another_began_is_a_failure() -> None:
    with pytest.raises(UpstreamFailed):
        events_of([start(0, arguments="{}"), start(1, arguments="{}"), more(0, "1")])


def test_a_finish_that_never_came_is_not_invented() -> None:
    events = events_of([text("Hi")], None)
    assert events[-2]["delta"]["stop_reason"] is None


def test_a_call_that_was_announced_but_not_made_is_no_tool_use() -> None:
    assert events_of([text("Hi")], "tool_calls")[-2]["delta"]["stop_reason"] == "end_turn"


def test_the_usage_is_told_at_the_end() -> None:
    usage = events_of([text("Hi")])[-2]["usage"]
    assert usage == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 5,
    }


def test_a_signature_goes_to_the_thought_it_signs() -> None:
    whole = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    events = events_of(
        [thought("Hm."), Delta(thinking_blocks=[whole]), thought("More."), text("4")]
    )
    assert kinds(events) == [
        "message_start",
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
        *("start", "delta", "stop"),
        "message_delta",
        "message_stop",
    ]
    assert [block.to_dict() for block in read(events).content] == [
        whole,
        {"type": "thinking", "thinking": "More.", "signature": ""},
        {"type": "text", "text": "4"},
    ]


def test_a_thought_that_was_not_streamed_comes_whole() -> None:
    whole = [
        {"type": "thinking", "thinking": "One.", "signature": "MQ=="},
        {"type": "thinking", "thinking": "", "signature": "Mg=="},
        {"type": "redacted_thinking", "data": "eHl6"},
    ]
    events = events_of([Delta(thinking_blocks=whole), text("4")])
    check_order(events)
    assert [block.to_dict() for block in read(events).content[:3]] == whole


def test_other_choices_are_not_mixed_in() -> None:
    encoder = EventEncoder(model="m", stops=[])
    other = ChunkChoice(1, text("other"), "stop")
    assert b"other" not in encoder.feed(Batch([ChatChunk([other])]))


def test_the_keepalive_is_a_ping_with_data() -> None:
    (event,) = SSEDecoder().feed(PING)
    assert (event.type, json.loads(event.data)) == ("ping", {"type": "ping"})
