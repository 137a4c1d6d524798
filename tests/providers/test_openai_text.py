"""Text completion streams, however they are cut."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import UpstreamError, UpstreamUnreachable
from chat.types import Usage
from providers.adapters.base import Endpoint
from providers.adapters.openai_embeddings import read_embeddings
from providers.adapters.openai_text import (
    TextStreamReader,
    lacks_endpoint,
    read_text,
    whole_text_as_batch,
)

ENDPOINT = Endpoint(base_url="http://127.0.0.1:1/v1", api_key="sk", model="m")


def chunk(text: str | None, *, index: int = 0, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "choices": [choice]}


def stream(*events: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events)


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
WHOLE = (
    stream(chunk("Hé"), chunk("l\nlo", index=1), chunk("", finish_reason="length"))
    + b": a comment\r\n\r\ndata:"
    + json.dumps(chunk("!", index=1, finish_reason="eos")).encode()
    + b"\r\n\r\n"
    + stream(USAGE)
    + b"data: [DONE]\n\n"
)


def read(raw: bytes, cuts: list[int]) -> tuple[list[str], list[str | None], Usage | None, bytes]:
    reader = TextStreamReader(ENDPOINT, hide_usage=True)
    borders = sorted({0, len(raw), *cuts})
    batches = [reader.feed(raw[a:b]) for a, b in zip(borders, borders[1:], strict=False)]
    batches.append(reader.finish())
    if reader.failure is not None:
        raise reader.failure
    texts, usage, wire = ["", ""], None, b""
    ends: list[str | None] = [None, None]
    for batch in batches:
        for each in batch.chunks if batch else ():
            usage = each.usage or usage
            for choice in each.choices:
                texts[choice.index] += choice.delta.content or ""
                ends[choice.index] = choice.finish_reason or ends[choice.index]
        wire += (batch.wire or b"") if batch else b""
    return texts, ends, usage, wire


@given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=30))
def test_a_stream_says_the_same_however_it_is_cut(cuts: list[int]) -> None:
    texts, ends, usage, wire = read(WHOLE, cuts)
    assert (texts, ends) == (["Hé", "l\nlo!"], ["length", "stop"])
    assert usage is not None
    assert usage.completion_tokens == 2
    assert b'"usage"' not in wire
    assert wire.count(b"\n\n") == wire.count(b"data: ") == 4


@given(st.lists(st.integers(1, 200), max_size=10))
def test_what_came_before_an_error_is_given_away_first(cuts: list[int]) -> None:
    raw = stream(chunk("Hel"), {"error": {"message": "It broke.", "type": "server_error"}})
    reader = TextStreamReader(ENDPOINT, hide_usage=True)
    borders = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    found = [reader.feed(raw[a:b]) for a, b in zip(borders, borders[1:], strict=False)]
    said = [each.choices[0].delta.content for batch in found if batch for each in batch.chunks]
    assert said == ["Hel"]
    assert isinstance(reader.failure, UpstreamError)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [chunk("a")],
        [chunk("a", finish_reason="stop"), chunk("b", index=1)],
    ],
)
def test_a_stream_that_is_cut_off_is_no_end(events: list[Any]) -> None:
    with pytest.raises(UpstreamUnreachable):
        read(stream(*events), [])


def test_a_stream_without_done_ends_where_every_choice_has_ended() -> None:
    raw = stream(chunk("a", finish_reason="stop"), chunk("b", index=1, finish_reason="stop"))
    assert read(raw, [])[0] == ["a", "b"]


@pytest.mark.parametrize("junk", [b"data: {\n\n", b"data: []\n\n", b'data: {"choices": 1}\n\n'])
def test_what_is_no_chunk_is_no_success(junk: bytes) -> None:
    with pytest.raises(UpstreamError):
        read(stream(chunk("a")) + junk, [])


def test_log_probabilities_in_a_chats_shape_are_told_in_the_legacy_one() -> None:
    answer = chunk("Hi", finish_reason="stop")
    answer["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.5}]}
    told = json.loads(read_text(json.dumps(answer).encode(), ENDPOINT).body)
    assert told["choices"][0]["logprobs"] == {
        "tokens": ["Hi"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{}],
        "text_offset": [0],
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text("ab"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    "choices",
                    "text",
                    "index",
                    "finish_reason",
                    "logprobs",
                    "content",
                    "usage",
                    "error",
                )
                + (
                    "prompt_tokens",
                    "data",
                    "embedding",
                    "prompt_tokens_details",
                    "token",
                    "message",
                )
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON)
def test_no_answer_is_so_odd_that_the_gateway_fails(answer: Any) -> None:
    raw = json.dumps(answer).encode()
    for attempt in (
        lambda: read_text(raw, ENDPOINT),
        lambda: whole_text_as_batch(raw, ENDPOINT),
        lambda: read_embeddings(raw, ENDPOINT, wanted="base64"),
        lambda: read_embeddings(raw, ENDPOINT, wanted="float"),
        lambda: read(b"data: " + raw + b"\n\n", []),
    ):
        with contextlib.suppress(UpstreamError):
            attempt()


@pytest.mark.parametrize(
    ("status", "body", "lacks"),
    [
        (404, b"", True),
        (404, b"<html>", True),
        (404, b'{"detail":"Not Found"}', True),
        (404, b'{"error":"Not Found"}', True),
        (404, b'{"error":{"message":"This is a chat model","code":null}}', True),
        (404, b'{"error":{"message":"no such","code":"model_not_found"}}', False),
        (405, b"", True),
        (501, b"", True),
        (400, b"", False),
        (500, b"", False),
    ],
)
def test_only_an_endpoint_that_is_missing_is_missing(status: int, body: bytes, lacks: bool) -> None:
    assert lacks_endpoint(status, body) is lacks
