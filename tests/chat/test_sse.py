"""Event streams: read in any split, written in one form."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat import sse
from chat.sse import EventTooLarge, SSEDecoder, SSEEvent, encode_event

pytestmark = pytest.mark.once

_LINES = st.sampled_from(
    [
        *("data: a", "data:b", "data:  two spaces", "data", "data:", "data: é€😀", "data: x:y"),
        *(": a comment", ":", "event: error", "event:ping", "event", "id: 7", "retry: 10", "odd"),
        *("", "", ""),
    ]
)
_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream of whole lines, with a byte order mark or without."""
    lines = draw(st.lists(st.tuples(_LINES, _ENDS), max_size=14))
    text = "".join(line + end for line, end in lines)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()


@st.composite
def split_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    stream = draw(streams())
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    edges = zip([0, *cuts], [*cuts, len(stream)], strict=True)
    return stream, [stream[start:end] for start, end in edges]


def decode(packets: list[bytes]) -> list[SSEEvent]:
    decoder = SSEDecoder()
    events = [event for packet in packets for event in decoder.feed(packet)]
    return events + decoder.finish()


def as_the_standard_says(stream: bytes) -> list[SSEEvent]:
    """The WHATWG algorithm over a whole stream, but for an event left open at its end."""
    events: list[SSEEvent] = []
    lines: list[str] = []
    kind = ""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode()
    for line in [*re.split("\r\n|\r|\n", text), ""]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                events.append(SSEEvent("\n".join(lines).encode(), kind))
            lines, kind = [], ""
        elif name == "data":
            lines.append(value)
        elif name == "event":
            kind = value
    return events


@given(split_streams())
def test_any_split_reads_as_the_standard_says(case: tuple[bytes, list[bytes]]) -> None:
    stream, packets = case
    assert decode(packets) == as_the_standard_says(stream)


@given(streams())
def test_byte_by_byte_reads_as_the_standard_says(stream: bytes) -> None:
    packets = [stream[at : at + 1] for at in range(len(stream))]
    assert decode(packets) == as_the_standard_says(stream)


def test_several_data_lines_are_one_event() -> None:
    assert decode([b"data: a\ndata: b\n\n"]) == [SSEEvent(b"a\nb")]


def test_a_comment_is_no_event() -> None:
    assert decode([b": keepalive\n\n", b"data: a\n\n"]) == [SSEEvent(b"a")]


def test_a_character_cut_between_packets_is_whole() -> None:
    stream = "data: 😀\n\n".encode()
    assert decode([stream[:8], stream[8:]]) == [SSEEvent("😀".encode())]


def test_a_line_end_cut_in_half_is_one_line_end() -> None:
    assert decode([b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"]) == [SSEEvent(b"a"), SSEEvent(b"b")]


def test_an_event_comes_as_soon_as_its_last_byte() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\n") == [SSEEvent(b"a")]
    assert decoder.clean


def test_an_event_left_open_is_told_at_the_end() -> None:
    assert decode([b"data: a"]) == [SSEEvent(b"a")]


def test_a_name_is_of_one_event_only() -> None:
    assert decode([b"event: error\ndata: a\n\ndata: b\n\n"]) == [
        SSEEvent(b"a", "error"),
        SSEEvent(b"b"),
    ]


@pytest.mark.parametrize("packet", [b"x" * 10, b"data: 123\n"])
def test_an_event_without_an_end_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, packet: bytes
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    decoder = SSEDecoder()
    with pytest.raises(EventTooLarge):
        for _ in range(1000):
            decoder.feed(packet)


def test_a_long_stream_of_small_events_is_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = SSEDecoder()
    assert sum(len(decoder.feed(b"data: 12345\n\n")) for _ in range(1000)) == 1000


@given(st.text().map(lambda text: re.sub("[\r\n]", "", text)), st.sampled_from(["", "error"]))
def test_what_is_written_reads_the_same(text: str, kind: str) -> None:
    assert decode([encode_event(text.encode(), kind)]) == [SSEEvent(text.encode(), kind)]
