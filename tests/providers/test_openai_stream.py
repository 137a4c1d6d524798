"""An OpenAI stream read from packets of any size: the same chunks, the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import GatewayError, UpstreamFailed, UpstreamRateLimited, UpstreamUnreachable
from chat.types import ChatChunk
from providers.adapters.base import Endpoint
from providers.adapters.openai_stream import ChatStreamReader

pytestmark = pytest.mark.once
ENDPOINT = Endpoint(base_url="http://10.0.0.9:9/v1", api_key="sk-secret", model="m")


def chunk(delta: Any, finish: Any = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "c-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return event({**head, "choices": [choice], **fields})


def event(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return b"data: " + data + b"\n\n"


HELLO = chunk({"role": "assistant", "content": "Hé😀"}, vendor={"kept": True})
END = chunk({}, "stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
DONE = event(b"[DONE]")
CLEAN = [HELLO, chunk({"content": "llo"}), END, USAGE, DONE]
MESSY = [
    b": comment\n\n",
    HELLO.replace(b"\n", b"\r\n"),
    b"data:" + HELLO[6:],
    event({"odd": "object"}),
    chunk({"tool_calls": [{"id": "x", "function": {"name": "f", "arguments": {"a": 1}}}]}),
    chunk({"content": None}, "end_turn"),
    USAGE,
    DONE,
]


def read(
    packets: list[bytes], *, hide_usage: bool = True
) -> tuple[list[ChatChunk], bytes, ChatStreamReader]:
    """The chunks of a whole stream, and what a caller on the same wire gets."""
    reader = ChatStreamReader(ENDPOINT, hide_usage=hide_usage)
    batches = [reader.feed(packet) for packet in packets]
    batches.append(None if reader.done else reader.finish())
    kept = [batch for batch in batches if batch is not None]
    wire = b"".join(batch.wire or b"" for batch in kept)
    return [chunk for batch in kept for chunk in batch.chunks], wire, reader


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize("events", [CLEAN, MESSY], ids=["clean", "messy"])
@pytest.mark.parametrize("hide_usage", [True, False])
@given(cuts=st.lists(st.integers(0, 5000), max_size=15))
def test_any_split_gives_the_same(events: list[bytes], hide_usage: bool, cuts: list[int]) -> None:
    stream = b"".join(events)
    chunks, wire, _ = read(events, hide_usage=hide_usage)
    split_chunks, split_wire, reader = read(split(stream, cuts), hide_usage=hide_usage)
    assert (split_chunks, split_wire) == (chunks, wire)
    assert reader.done


def test_right_bytes_are_passed_on_as_they_came() -> None:
    _, wire, _ = read(CLEAN, hide_usage=False)
    assert wire == b"".join(CLEAN[:-1])


@pytest.mark.parametrize("packets", [CLEAN, [b"".join(CLEAN)]], ids=["apart", "together"])
def test_a_usage_chunk_nobody_asked_for_is_read_and_not_shown(packets: list[bytes]) -> None:
    chunks, wire, _ = read(packets)
    assert wire == b"".join(CLEAN[:-2])
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 4)


def test_a_usage_that_comes_with_a_choice_is_not_taken_away() -> None:
    last = chunk({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 4})
    _, wire, _ = read([HELLO, last, DONE])
    assert wire == HELLO + last


@pytest.mark.parametrize("name", ["error", ""])
def test_an_error_in_band_is_raised_as_what_it_is(name: str) -> None:
    told = {"error": {"message": "slow down", "type": "rate_limit_error", "code": None}}
    packet = (b"event: error\n" if name else b"") + event(told)
    for before in ([], [HELLO]):
        with pytest.raises(UpstreamRateLimited) as failure:
            read([*before, packet])
        assert failure.value.message == "slow down"


def test_chunks_before_an_error_were_handed_out() -> None:
    reader = ChatStreamReader(ENDPOINT, hide_usage=True)
    batch = reader.feed(HELLO)
    assert batch is not None
    assert batch.wire == HELLO
    with pytest.raises(GatewayError):
        reader.feed(event({"error": {"message": "boom"}}))


def test_an_error_tells_neither_our_credential_nor_the_address() -> None:
    told = {"error": {"message": "sk-secret is unknown at http://10.0.0.9:9/v1"}}
    with pytest.raises(UpstreamFailed) as failure:
        read([event(told)])
    assert "sk-secret" not in failure.value.message
    assert "10.0.0.9" not in failure.value.message


@pytest.mark.parametrize("packets", [[], [HELLO], [HELLO, HELLO[:-9]], [USAGE]])
def test_a_stream_cut_off_is_no_stop(packets: list[bytes]) -> None:
    with pytest.raises((UpstreamUnreachable, UpstreamFailed)):  # M26
        read(packets)


def test_an_end_without_a_reason_is_given_none() -> None:
    """`[DONE]` is the upstream's own word for an end; OpenAI's SDK takes it with a null reason."""
    chunks, wire, reader = read([HELLO, DONE])  # M26
    assert (wire, reader.done) == (HELLO, True)
    assert [choice.finish_reason for each in chunks for choice in each.choices] == [None]


@pytest.mark.parametrize("before", [[], [chunk({"role": "assistant", "content": ""})], [USAGE]])
@pytest.mark.parametrize("apart", [True, False])
def test_an_end_of_nothing_is_a_failure(before: list[bytes], apart: bool) -> None:
    _, _, reader = read([*before, DONE] if apart else [b"".join([*before, DONE])])
    assert isinstance(reader.failure, UpstreamFailed)  # M27
    assert reader.failure.retryable


@pytest.mark.parametrize("last", [b"\n\n", b"\r\n\r\n"], ids=["canonical", "not canonical"])
def test_what_is_no_text_is_not_passed_on(last: bytes) -> None:
    bad = HELLO.rstrip().replace(b'{"', b'{"vendor": "\xff\xc3", "', 1) + last
    with pytest.raises(UpstreamFailed):
        read([bad, END, DONE])
    good = HELLO.replace(b'{"', '{"vendor": "é", "'.encode(), 1)
    assert read([good, END, DONE])[1] == good + END


def test_a_stream_cut_off_in_one_of_two_choices_is_no_stop() -> None:
    other = {"index": 1, "delta": {"content": "Good"}, "finish_reason": None}
    both = event({"choices": [{"index": 0, "delta": {"content": "Hel"}}, other]})
    with pytest.raises(UpstreamUnreachable):  # M26
        read([both, END])
    ended = event({"choices": [{**other, "finish_reason": "length"}]})
    assert len(read([both, END, ended])[0]) == 3


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
def test_a_finish_that_tells_of_a_failure_is_none(reason: str) -> None:
    with pytest.raises(UpstreamFailed) as failure:
        read([HELLO, chunk({}, reason), DONE])
    assert failure.value.retryable


def test_a_finish_without_done_is_an_end() -> None:
    chunks, wire, reader = read([HELLO, END])
    assert wire == HELLO + END
    assert not reader.done
    assert len(chunks) == 2


def test_an_end_without_its_last_blank_line_is_an_end() -> None:
    _, wire, _ = read([HELLO, END.rstrip(b"\n")])
    assert wire == HELLO + END


def test_nothing_after_done_is_read() -> None:
    chunks, _, _ = read([HELLO + END + DONE + event({"error": {"message": "late"}})])
    assert len(chunks) == 2


def shown(packet: bytes) -> list[dict[str, Any]]:
    """The choices a caller sees of one packet."""
    _, wire, _ = read([packet, END, DONE])
    events = wire.removesuffix(b"\n\n").split(b"\n\n")[:-1]
    return [choice for data in events for choice in json.loads(data[6:])["choices"]]


@pytest.mark.parametrize(
    ("told", "legal"),
    [("end_turn", "stop"), ("eos", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls")],
)
def test_another_word_for_a_finish_becomes_openais(told: str, legal: str) -> None:
    assert shown(chunk({"content": "x"}, told))[0]["finish_reason"] == legal


def test_an_empty_finish_is_none() -> None:
    assert shown(chunk({"content": "x"}, ""))[0]["finish_reason"] is None


def test_tool_calls_without_an_index_get_their_position() -> None:
    calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "ab"]
    found = shown(chunk({"tool_calls": calls}))[0]["delta"]["tool_calls"]
    assert [(call["index"], call["id"]) for call in found] == [(0, "a"), (1, "b")]


def test_arguments_as_an_object_become_text() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}
    (found,) = shown(chunk({"tool_calls": [call]}))[0]["delta"]["tool_calls"]
    assert json.loads(found["function"]["arguments"]) == {"x": 1}


def test_a_choice_without_an_index_gets_its_position() -> None:
    choices = [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]
    assert [choice["index"] for choice in shown(event({"choices": choices}))] == [0, 1]


@pytest.mark.parametrize("value", [{"choices": None}, {"x": 1}, [], 5, None, "text"])
def test_what_is_no_chunk_is_left_out(value: Any) -> None:
    assert shown(event(value)) == []


@pytest.mark.parametrize(
    "data", [b"{", b"nonsense", b'{"choices":[{"index":0,"delta":{"content":7}}]}']
)
def test_what_cannot_be_a_chunk_ends_the_stream(data: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        read([event(data)])
