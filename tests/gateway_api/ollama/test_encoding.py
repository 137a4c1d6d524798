"""What becomes of OpenAI's chunks on Ollama's wire, whatever pieces they come in."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import UpstreamFailed
from chat.types import Batch, ChatChunk, ChunkChoice, Delta, FunctionDelta, ToolCallDelta
from gateway_api.exchange import Exchange
from gateway_api.ollama.encoding import LineEncoder

ARGUMENTS = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=20)), max_size=3
)
EXCHANGE = cast(
    Exchange,
    SimpleNamespace(call=SimpleNamespace(started=0.0), first_token_at=None, usage=None),
)


def batch(*deltas: Delta) -> Batch:
    return Batch([ChatChunk([ChunkChoice(0, delta)]) for delta in deltas])


def fragment(index: int, arguments: str, **head: Any) -> Delta:
    name = head.pop("name", None)
    function = FunctionDelta(name=name, arguments=arguments)
    return Delta(tool_calls=[ToolCallDelta(index=index, function=function, **head)])


def lines(raw: bytes) -> list[Any]:
    return [json.loads(line) for line in raw.decode().splitlines()]


@given(
    calls=st.lists(ARGUMENTS, min_size=1, max_size=4),
    size=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_any_fragments_of_calls_come_out_as_their_objects(
    calls: list[dict[str, Any]], size: int, order: Any
) -> None:
    """M28"""
    texts = [json.dumps(arguments) for arguments in calls]
    waiting = {
        index: [text[at : at + size] for at in range(0, len(text), size)]
        for index, text in enumerate(texts)
    }
    encoder = LineEncoder("m", generate=False)
    raw = b""
    for index in waiting:
        raw += encoder.encode(batch(fragment(index, "", id=f"c{index}", name=f"tool{index}")))
    while waiting:
        index = order.choice(sorted(waiting))
        raw += encoder.encode(batch(fragment(index, waiting[index].pop(0))))
        if not waiting[index]:
            del waiting[index]
    told = lines(raw + encoder.end(EXCHANGE))
    assert [each["done"] for each in told] == [False, True]
    assert [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in told[0]["message"]["tool_calls"]
    ] == [(f"c{index}", f"tool{index}", arguments) for index, arguments in enumerate(calls)]


@given(texts=st.lists(st.text(min_size=1, max_size=20), max_size=6), model=st.text(max_size=30))
def test_any_text_of_any_model_stays_what_it_is_in_one_line(texts: list[str], model: str) -> None:
    encoder = LineEncoder(model, generate=False)
    raw = encoder.encode(batch(*(Delta(content=text) for text in texts)))
    told = lines(raw)
    assert [each["message"]["content"] for each in told] == texts
    assert {each["model"] for each in told} <= {model}
    assert all(each["created_at"].endswith("Z") for each in told)


@pytest.mark.parametrize("model", ["~time~", "~text~", '"~text~"~time~'])
def test_no_models_name_upsets_the_lines(model: str) -> None:
    (told,) = lines(LineEncoder(model, generate=True).encode(batch(Delta(content="Hi"))))
    assert (told["model"], told["response"], told["done"]) == (model, "Hi", False)


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "5", "no"])
def test_arguments_that_are_no_object_are_a_failure(arguments: str) -> None:
    encoder = LineEncoder("m", generate=False)
    encoder.encode(batch(fragment(0, arguments, id="c", name="t")))
    with pytest.raises(UpstreamFailed):
        encoder.end(EXCHANGE)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "stop"), ("tool_calls", "stop"), ("length", "length"), ("content_filter",) * 2],
)
def test_a_finish_is_told_as_its_reason(finish: Any, reason: str) -> None:
    encoder = LineEncoder("m", generate=False)
    encoder.encode(Batch([ChatChunk([ChunkChoice(0, Delta(), finish)])]))
    assert lines(encoder.end(EXCHANGE))[-1]["done_reason"] == reason


def test_arguments_keep_their_numbers_and_stay_in_one_line() -> None:
    encoder = LineEncoder("m", generate=False)
    arguments = (
        '{\n "id": 123456789012345678901234567890,\r\n "deep": ' + "[" * 400 + "]" * 400 + "}"
    )
    encoder.encode(batch(fragment(0, arguments, id="c", name="t")))
    raw = encoder.end(EXCHANGE)
    assert raw.count(b"\n") == 2
    assert b"123456789012345678901234567890" in raw
