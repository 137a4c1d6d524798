"""An Anthropic stream read from packets of any size: the same chunks, the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import (
    GatewayError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from chat.folding import CompletionFolder
from chat.types import ChatChunk, encode
from providers.adapters.anthropic_stream import MessageStreamReader
from providers.adapters.base import Endpoint
from tests.anthropic_upstream import (
    SIGNED,
    block,
    ending,
    error,
    event,
    start,
    stream,
    text,
    text_block,
    thinking_block,
    tool_block,
    tool_use,
)

pytestmark = pytest.mark.once
ENDPOINT = Endpoint(base_url="http://10.0.0.9:9", api_key="sk-ant-secret", model="m")
LOOP = stream(
    thinking_block(0, "Let me", " see.", signature=SIGNED["signature"]),
    text_block(1, "Hé😀", "llo"),
    tool_block(2, "toolu_1", "get_weather", '{"city":', ' "Paris"}'),
    tool_block(3, "toolu_2", "now"),
    stop="tool_use",
)
SERVED = stream(
    text_block(0, "I look."),
    block(
        1,
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"query": "x"}'},
    ),
    block(2, {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}),
    block(
        3,
        {"type": "text", "text": "", "citations": []},
        {"type": "citations_delta", "citation": {"type": "web_search_result_location"}},
        {"type": "text_delta", "text": "Found."},
    ),
)
MESSY = [
    b": comment\n\n",
    start().replace(b"\n", b"\r\n"),
    b"\n\n",
    b'data: {"type": "content_block_start", "index": 0, "content_block": '
    b'{"type": "text", "text": ""}}\n\n',
    b'event:content_block_delta\ndata:{"type":"content_block_delta","index":0,\n'
    b'data: "delta":{"type":"text_delta","text":"Hi"}}\n\n',
    event("new_event", odd=True),
    event("content_block_delta", index=0, delta={"type": "new_delta", "odd": 1}),
    event("content_block_stop", index=0),
    *ending(),
    b"data: [DONE]\n\n",
]


def read(
    packets: list[bytes], *, keep_wire: bool = False
) -> tuple[list[ChatChunk], bytes, GatewayError | None]:
    """The chunks of a whole stream, what a caller on the same wire gets, and how it failed."""
    reader = MessageStreamReader(ENDPOINT, keep_wire=keep_wire)
    chunks: list[ChatChunk] = []
    wire = b""
    for packet in [*packets, None]:
        batch = reader.feed(packet) if packet is not None else reader.finish()
        if batch is not None:
            assert (batch.wire is not None) == keep_wire
            chunks += batch.chunks
            wire += batch.wire or b""
        if reader.failure is not None or reader.done:
            break
    for chunk in chunks:
        chunk.created = 0
    return chunks, wire, reader.failure


def folded(chunks: list[ChatChunk]) -> dict[str, Any]:
    folder = CompletionFolder()
    for chunk in chunks:
        folder.add(chunk)
    return folder.completion()


def split(whole: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [whole[begin:end] for begin, end in zip(edges, edges[1:], strict=False)]


FAILING = [*LOOP[:6], event("error", error={"type": "overloaded_error", "message": "Overloaded"})]
STREAMS = {"loop": LOOP, "served": SERVED, "messy": MESSY, "cut": LOOP[:-1], "failing": FAILING}


@pytest.mark.parametrize("events", STREAMS.values(), ids=STREAMS.keys())
@pytest.mark.parametrize("keep_wire", [True, False])
@given(cuts=st.lists(st.integers(0, 5000), max_size=15))
def test_any_split_gives_the_same(events: list[bytes], keep_wire: bool, cuts: list[int]) -> None:
    chunks, wire, failure = read(events, keep_wire=keep_wire)
    packets = split(b"".join(events), cuts)
    split_chunks, split_wire, split_failure = read(packets, keep_wire=keep_wire)
    assert (split_chunks, split_wire) == (chunks, wire)
    assert type(split_failure) is type(failure)


# --- the caller's wire --------------------------------------------------------------------------


def test_right_bytes_are_passed_on_as_they_came() -> None:
    assert read(LOOP, keep_wire=True)[1] == b"".join(LOOP)


def test_padding_before_a_closing_brace_is_left_as_it_is() -> None:
    padded = [each.replace(b"}\n\n", b"       }\n\n") for each in LOOP]
    assert read(padded, keep_wire=True)[1] == b"".join(padded)


def test_odd_framing_is_mended_and_every_event_has_its_name() -> None:
    wire = read(MESSY, keep_wire=True)[1].decode()
    events = [each.split("\n") for each in wire.removesuffix("\n\n").split("\n\n")]
    assert all(len(lines) == 2 for lines in events)
    told = [(line[7:], json.loads(data[6:])["type"]) for line, data in events]
    assert all(name == kind for name, kind in told)
    assert [name for name, _ in told] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "new_event",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_what_comes_after_the_end_is_not_passed_on() -> None:
    late = [*LOOP[:-1], LOOP[-1] + event("ping") + event("ping")]
    assert read(late, keep_wire=True)[1] == b"".join(LOOP)


def test_the_ledger_reads_chunks_of_a_passed_stream_too() -> None:
    chunks, _, _ = read(LOOP, keep_wire=True)
    completion = folded(chunks)
    assert completion["usage"]["prompt_tokens"] == 60
    assert completion["choices"][0]["finish_reason"] == "tool_calls"
    assert completion["choices"][0]["message"]["content"] == "Hé😀llo"


# --- translation --------------------------------------------------------------------------------


def test_text_thinking_and_calls_add_up_to_the_message() -> None:
    chunks, _, failure = read(LOOP)
    assert failure is None
    (choice,) = folded(chunks)["choices"]
    assert choice["message"]["content"] == "Hé😀llo"
    assert choice["message"]["reasoning_content"] == "Let me see."
    assert choice["message"]["thinking_blocks"] == [SIGNED]
    assert [
        (each["id"], each["function"]["name"], each["function"]["arguments"])
        for each in choice["message"]["tool_calls"]
    ] == [("toolu_1", "get_weather", '{"city": "Paris"}'), ("toolu_2", "now", "{}")]
    assert choice["finish_reason"] == "tool_calls"


def test_the_first_chunk_has_the_role_and_all_have_one_id_and_model() -> None:
    chunks, _, _ = read(LOOP)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [each.choices[0].delta.role for each in chunks[1:-1]] == [None] * (len(chunks) - 2)
    assert {(each.id, each.model, each.object) for each in chunks} == {
        ("msg_1", "claude-sonnet-4-5-20250929", "chat.completion.chunk")
    }


def test_usage_comes_last_and_counts_are_not_added_up() -> None:
    chunks, _, _ = read(LOOP)
    assert [each.usage is not None for each in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (60, 7, 67)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 30
    assert usage.prompt_tokens_details.cache_write_tokens == 20
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 3


def test_call_indices_are_contiguous_and_ids_and_names_come_once() -> None:
    chunks, _, _ = read(LOOP)
    deltas = [
        call
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    assert [(each.index, each.id) for each in deltas if each.id] == [
        (0, "toolu_1"),
        (1, "toolu_2"),
    ]
    assert {each.index for each in deltas} == {0, 1}
    assert sum(1 for each in deltas if each.function and each.function.name) == 2


def test_every_fragment_of_arguments_is_a_chunk_of_its_own() -> None:
    packets = tool_block(0, "toolu_1", "f", '{"a"', ": 1}")
    reader = MessageStreamReader(ENDPOINT, keep_wire=False)
    reader.feed(start())
    fragments = []
    for packet in packets:
        batch = reader.feed(packet)
        for chunk in batch.chunks if batch else ():
            for call in chunk.choices[0].delta.tool_calls or ():
                assert call.function is not None
                fragments.append(call.function.arguments)
    assert fragments == ["", '{"a"', ": 1}"]


def test_input_that_comes_whole_with_the_start_is_not_lost() -> None:
    whole = block(0, tool_use("toolu_1", "f", a=1))
    (choice,) = folded(read(stream(whole, stop="tool_use"))[0])["choices"]
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


def test_server_tools_leave_only_what_the_model_said() -> None:
    (choice,) = folded(read(SERVED)[0])["choices"]
    assert choice["message"]["content"] == "I look.Found."
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_redacted_thinking_is_handed_over() -> None:
    hidden = {"type": "redacted_thinking", "data": "opaque=="}
    (choice,) = folded(read(stream(block(0, hidden), text_block(1, "Hi")))[0])["choices"]
    assert choice["message"]["thinking_blocks"] == [hidden]


def test_thinking_that_is_not_shown_keeps_its_signature() -> None:
    packets = stream(thinking_block(0, signature="sig=="), text_block(1, "Hi"))
    (choice,) = folded(read(packets)[0])["choices"]
    assert choice["message"]["thinking_blocks"] == [
        {"type": "thinking", "thinking": "", "signature": "sig=="}
    ]


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        ("a_reason_of_next_year", "stop"),
    ],
)
def test_stop_reasons_are_finish_reasons(stop: str, finish: str) -> None:
    (choice,) = folded(read(stream(text_block(0, "Hi"), stop=stop))[0])["choices"]
    assert choice["finish_reason"] == finish


def test_a_refusal_says_why() -> None:
    told = {"type": "refusal", "category": "bio", "explanation": "Not that."}
    packets = [start(), *ending("refusal", stop_details=told)]
    (choice,) = folded(read(packets)[0])["choices"]
    assert choice["message"]["refusal"] == "Not that."


def test_a_paused_turn_is_told_in_a_field_of_its_own() -> None:
    chunks, _, _ = read(stream(text_block(0, "Hi"), stop="pause_turn"))
    told = [json.loads(encode(each))["choices"] for each in chunks]
    assert [each[0].get("native_finish_reason") for each in told if each][-1] == "pause_turn"


def test_zeros_at_the_end_do_not_take_counts_away() -> None:
    last = event(
        "message_delta",
        delta={"stop_reason": "end_turn"},
        usage={"input_tokens": 0, "output_tokens": 9},
    )
    usage = read([start(), *text_block(0, "Hi"), last, event("message_stop")])[0][-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (60, 9)


def test_usage_that_cannot_be_read_costs_only_the_usage() -> None:
    last = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": "9"})
    chunks, _, failure = read([start(), *text_block(0, "Hi"), last, event("message_stop")])
    assert failure is None
    assert folded(chunks)["choices"][0]["finish_reason"] == "stop"


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_wire", [True, False])
@pytest.mark.parametrize("kept", [1, 4, len(LOOP) - 2, len(LOOP) - 1])
def test_a_stream_without_message_stop_was_cut_off(kept: int, keep_wire: bool) -> None:
    _, _, failure = read(LOOP[:kept], keep_wire=keep_wire)
    assert isinstance(failure, UpstreamUnreachable)
    assert failure.retryable


def test_an_end_that_gives_no_reason_is_no_stop() -> None:
    chunks, _, failure = read([start(), *text_block(0, "Hi"), event("message_stop")])
    assert isinstance(failure, UpstreamFailed)
    assert folded(chunks)["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize("keep_wire", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_an_error_in_band_is_told_after_what_came_before_it(packed: bool, keep_wire: bool) -> None:
    packets = [b"".join(FAILING)] if packed else FAILING
    chunks, wire, failure = read(packets, keep_wire=keep_wire)
    assert isinstance(failure, UpstreamOverloaded)
    assert folded(chunks)["choices"][0]["message"]["reasoning_content"] == "Let me see."
    assert b"error" not in wire


def test_an_error_event_is_one_by_its_type_alone() -> None:
    told = json.dumps(error("rate_limit_error")).encode()
    _, _, failure = read([start(), b"data: " + told + b"\n\n"])
    assert isinstance(failure, UpstreamRateLimited)


def test_an_error_tells_neither_our_credential_nor_the_address() -> None:
    told = error("api_error", "sk-ant-secret is unknown at http://10.0.0.9:9/v1")
    _, _, failure = read([event("error", error=told["error"])])
    assert isinstance(failure, UpstreamFailed)
    assert "sk-ant-secret" not in failure.message
    assert "10.0.0.9" not in failure.message


@pytest.mark.parametrize("data", [b"<html>", b'{"type": "content_block_start"}', b"{"])
def test_an_event_that_is_none_is_a_failure(data: bytes) -> None:
    _, _, failure = read([start(), b"event: content_block_start\ndata: " + data + b"\n\n"])
    assert isinstance(failure, UpstreamFailed)


WORDS = st.sampled_from(
    [
        *("type", "index", "delta", "content_block", "message", "usage", "text", "thinking", "id"),
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop", "text_delta", "input_json_delta", "signature_delta"),
        *("signature", "partial_json", "tool_use", "redacted_thinking", "name", "input", "error"),
        *("stop_reason", "stop_details", "refusal", "explanation", "input_tokens", "data"),
    ]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=8,
)
BLOCK = st.fixed_dictionaries({"type": WORDS}, optional={"text": ANY_JSON, "thinking": ANY_JSON})
ANY_EVENT = st.fixed_dictionaries(
    {"type": WORDS},
    optional={
        "index": st.integers(0, 2) | ANY_JSON,
        "delta": ANY_JSON,
        "content_block": BLOCK | ANY_JSON,
        "message": ANY_JSON,
        "usage": ANY_JSON,
    },
)


@pytest.mark.parametrize("keep_wire", [True, False])
@given(events=st.lists(ANY_EVENT, max_size=6), named=st.booleans())
def test_whatever_an_upstream_sends_is_read_or_its_failure(
    events: list[Any], named: bool, keep_wire: bool
) -> None:
    sent = [json.dumps(each).encode() for each in events]
    names = [b"event: " + each["type"].encode() + b"\n" if named else b"" for each in events]
    packets = [name + b"data: " + data + b"\n\n" for name, data in zip(names, sent, strict=True)]
    chunks, _, failure = read([start(), *packets, *ending()], keep_wire=keep_wire)
    assert failure is None or isinstance(failure, GatewayError)
    encode(folded(chunks))


def test_blocks_of_a_kind_we_do_not_know_are_passed_over() -> None:
    packets = stream(block(0, {"type": "block_of_next_year", "x": 1}), text_block(1, "Hi"))
    assert folded(read(packets)[0])["choices"][0]["message"]["content"] == "Hi"


def test_text_that_stands_in_the_start_of_a_block_is_text() -> None:
    packets = stream(block(0, text("Hello")))
    assert folded(read(packets)[0])["choices"][0]["message"]["content"] == "Hello"
