"""Tool calls of servers that nearly speak OpenAI's wire, as callers get them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chat.folding import CompletionFolder
from chat.sse import DONE
from chat.types import ChatChunk
from providers.adapters.base import Endpoint
from providers.adapters.openai_completion import read_completion
from providers.adapters.openai_stream import ChatStreamReader
from tests.upstream import chunk, completion

pytestmark = pytest.mark.once
ENDPOINT = Endpoint(base_url="", api_key="", model="m")
Piece = dict[str, Any]


def piece(index: int | None, id_: str | None, name: str | None, arguments: Any) -> Piece:
    function = {"name": name, "arguments": arguments}
    call = {
        "index": index,
        "id": id_,
        "type": "function",
        "function": {key: value for key, value in function.items() if value is not None},
    }
    return {key: value for key, value in call.items() if value is not None}


def streamed(*pieces: Piece, end: str = "tool_calls", together: bool) -> list[ChatChunk]:
    """What a reader makes of these pieces, each in a chunk of its own."""
    events = [chunk(role="assistant", content=None)]
    events += [chunk(tool_calls=[each]) for each in pieces]
    events += [chunk(end), DONE]
    reader = ChatStreamReader(ENDPOINT, hide_usage=True)
    batches = [reader.feed(packet) for packet in ([b"".join(events)] if together else events)]
    chunks = []
    for batch in batches:
        if batch is not None:
            assert batch.wire is not None
            told = [line[6:] for line in batch.wire.split(b"\n\n") if line != b"data: [DONE]"]
            chunks += [json.loads(line) for line in told if line]
    add_up(chunks)
    return [chunk for batch in batches if batch is not None for chunk in batch.chunks]


def add_up(chunks: list[Any]) -> None:
    """What the SDKs ask of a stream (M28)."""
    count = 0
    for call in (
        call for each in chunks for call in each["choices"][0]["delta"].get("tool_calls") or ()
    ):
        if call.get("id"):
            assert call["index"] == count
            assert call["type"] == "function"
            assert call["function"]["name"]
            count += 1
        else:
            assert call["index"] == count - 1
            assert not call["function"].get("name")


def calls_of(chunks: list[ChatChunk]) -> tuple[list[tuple[str, str]], list[str], str]:
    folder = CompletionFolder()
    for each in chunks:
        folder.add(each)
    (choice,) = folder.completion()["choices"]
    calls = choice["message"]["tool_calls"]
    told = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return told, [call["id"] for call in calls], choice["finish_reason"]


TWO = [("a", '{"x":1}'), ("b", "{}")]
DEFECTS: dict[str, list[Piece]] = {
    "no ids": [
        piece(0, None, "a", ""),
        piece(0, None, None, '{"x":1}'),
        piece(1, None, "b", "{}"),
    ],
    "empty ids": [piece(0, "", "a", '{"x":1}'), piece(1, "", "b", "{}")],
    "one id for both": [piece(0, "same", "a", '{"x":1}'), piece(1, "same", "b", "{}")],
    "places from 1": [piece(1, "i", "a", '{"x":1}'), piece(2, "j", "b", "{}")],
    "a gap": [piece(0, "i", "a", '{"x":1}'), piece(5, "j", "b", "{}")],
    "one place for both": [piece(0, "i", "a", '{"x":1}'), piece(0, "j", "b", "{}")],
    "one place and no ids": [piece(0, None, "a", '{"x":1}'), piece(0, None, "b", "{}")],
    "no places": [piece(None, "i", "a", '{"x":1}'), piece(None, "j", "b", "{}")],
    "told again and again": [
        piece(0, "i", "a", '{"x"'),
        piece(0, "i", "a", ":1}"),
        piece(1, "j", "b", "{}"),
    ],
    "arguments as an object": [piece(0, "i", "a", {"x": 1}), piece(1, "j", "b", {})],
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("end", ["tool_calls", "stop"])
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_stream_of_calls_is_put_in_order(defect: str, end: str, together: bool) -> None:
    chunks = streamed(*DEFECTS[defect], end=end, together=together)
    told, ids, finish = calls_of(chunks)
    assert told == TWO
    assert len(set(ids)) == 2
    assert all(ids)
    assert finish == "tool_calls"  # M29


@pytest.mark.parametrize("end", ["length", "content_filter"])
def test_why_else_a_stream_of_calls_ended_is_kept(end: str) -> None:
    chunks = streamed(piece(0, None, "a", '{"x'), end=end, together=False)
    assert calls_of(chunks)[2] == end


def test_a_good_stream_of_calls_keeps_its_bytes() -> None:
    events = [
        chunk(role="assistant", content=None),
        chunk(tool_calls=[piece(0, "i", "a", "")]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        chunk(tool_calls=[piece(1, "j", "b", "{}")]),
        chunk("tool_calls"),
    ]
    for packets in (events, [b"".join(events)]):
        reader = ChatStreamReader(ENDPOINT, hide_usage=True)
        wires = [batch.wire for batch in map(reader.feed, packets) if batch is not None]
        assert wires == packets


@pytest.mark.parametrize("ids", [(None, None), ("", ""), ("same", "same"), ("i", None)], ids=str)
@pytest.mark.parametrize("end", ["tool_calls", "stop"])
def test_a_whole_answer_with_calls_is_put_in_order(ids: tuple[Any, Any], end: str) -> None:
    calls = [
        {"id": id_, "function": {"name": name, "arguments": arguments}}
        for id_, (name, arguments) in zip(ids, TWO, strict=True)
    ]
    answer = completion(None, tool_calls=calls)
    answer["choices"][0]["finish_reason"] = end
    reply = read_completion(json.dumps(answer).encode(), ENDPOINT)
    (choice,) = json.loads(reply.body)["choices"]
    told = choice["message"]["tool_calls"]
    assert len({call["id"] for call in told if call["id"]}) == 2
    assert {call["type"] for call in told} == {"function"}
    assert (choice["finish_reason"], reply.finish_reason) == ("tool_calls", "tool_calls")


def test_a_good_whole_answer_with_calls_keeps_its_bytes() -> None:
    calls = [
        {"id": "i", "type": "function", "function": {"name": "a", "arguments": "{}"}},
        {"id": "j", "type": "function", "function": {"name": "a", "arguments": "{}"}},
    ]
    raw = json.dumps(completion(None, tool_calls=calls)).encode()
    assert read_completion(raw, ENDPOINT).body == raw
