"""A completion and its chunks say the same."""

from __future__ import annotations

from typing import Any

import pytest

from chat.folding import CompletionFolder, unfold, usage_fields
from chat.types import (
    ChatChunk,
    ChunkChoice,
    Delta,
    FunctionDelta,
    ToolCallDelta,
    Usage,
    count_tokens,
)

pytestmark = pytest.mark.once


def fold(chunks: list[ChatChunk]) -> dict[str, Any]:
    folder = CompletionFolder()
    for chunk in chunks:
        folder.add(chunk)
    return folder.completion()


def said(delta: Delta, *, index: int = 0, finish: Any = None, logprobs: Any = None) -> ChatChunk:
    choice = ChunkChoice(index=index, delta=delta, finish_reason=finish, logprobs=logprobs)
    return ChatChunk(choices=[choice], id="c-1", created=5, model="m")


def call(index: int, **function: str) -> Delta:
    parts = ToolCallDelta(
        index=index,
        id=function.pop("id", None),
        type="function",
        function=FunctionDelta(**function),
    )
    return Delta(tool_calls=[parts])


def test_text_is_joined() -> None:
    chunks = [said(Delta(role="assistant")), said(Delta(content="Hel")), said(Delta(content="lo"))]
    completion = fold([*chunks, said(Delta(), finish="stop")])
    (choice,) = completion["choices"]
    assert choice["message"]["content"] == "Hello"
    assert choice["finish_reason"] == "stop"
    assert (completion["id"], completion["created"], completion["model"]) == ("c-1", 5, "m")


def test_parallel_tool_calls_are_put_together_each_from_its_own_pieces() -> None:
    completion = fold(
        [
            said(call(0, id="a", name="f", arguments="")),
            said(call(1, id="b", name="g", arguments='{"y"')),
            said(call(0, arguments='{"x"')),
            said(call(1, arguments=":2}")),
            said(call(0, arguments=":1}"), finish="tool_calls"),
        ]
    )
    message = completion["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"y":2}'}},
    ]


def test_choices_keep_their_places_whatever_their_order() -> None:
    completion = fold([said(Delta(content="b"), index=1), said(Delta(content="a"))])
    told = [(choice["index"], choice["message"]["content"]) for choice in completion["choices"]]
    assert told == [(0, "a"), (1, "b")]


def test_a_stream_without_a_finish_has_none_afterwards() -> None:
    assert fold([said(Delta(content="a"))])["choices"][0]["finish_reason"] is None


def test_reasoning_stays_apart_from_text() -> None:
    message = fold([said(Delta(reasoning_content="hm")), said(Delta(content="a"))])["choices"][0]
    assert message["message"]["reasoning_content"] == "hm"
    assert message["message"]["content"] == "a"


def test_logprobs_are_joined() -> None:
    chunks = [said(Delta(content=text), logprobs={"content": [{"token": text}]}) for text in "ab"]
    choice = fold(chunks)["choices"][0]
    assert choice["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


COMPLETIONS: list[dict[str, Any]] = [
    {"content": "Hello"},
    {"content": "", "refusal": "no"},
    {"content": "x", "reasoning_content": "hm"},
    {
        "content": None,
        "tool_calls": [
            {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}}
            for name in ("f", "g")
        ],
    },
]


@pytest.mark.parametrize("message", COMPLETIONS)
def test_unfolding_and_folding_give_the_completion_back(message: dict[str, Any]) -> None:
    message = {"role": "assistant", "refusal": None, **message}
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
        for index in range(2)
    ]
    completion = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": choices,
        "usage": None,
    }
    assert fold(unfold(completion)) == completion


def test_the_total_is_made_good_where_an_upstream_left_it_out() -> None:
    fields = usage_fields(Usage(prompt_tokens=3, completion_tokens=4))
    assert fields == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_no_part_of_a_count_exceeds_its_whole() -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=-3, prompt_cache_hit_tokens=99)
    counts = count_tokens(usage)
    assert (counts.input, counts.cached, counts.output, counts.reasoning) == (10, 10, 0, 0)
