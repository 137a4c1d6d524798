"""Whoever is asked: an answer is the same whole and streamed, and says what the upstream said."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chat.types import Reply
from providers import registry
from tests.contract.dialects import Answer, Call
from tests.contract.kinds import ASKS_NOBODY, SPEAKS
from tests.contract.stage import HttpStage, Played, Sent, Stage, complete, stream

pytestmark = pytest.mark.once

WORDS = Answer(words=("Hé😀", "llo ", "there."))
CUT = Answer(words=("Hello ", "th"), cut=True)
CALLS = Answer(
    calls=(
        Call("call_1", "get_weather", ('{"ci', 'ty":', ' "Paris"}')),
        Call("call_2", "get_weather", ('{"city": "Rome"}',)),
        Call("call_3", "now", ("{}",)),
    )
)
BOTH = Answer(words=("I ", "look."), calls=CALLS.calls)
THOUGHTS = Answer(thoughts=("Let me", " see."), words=("Yes", "."), calls=CALLS.calls)
ANSWERS = {"thoughts": THOUGHTS, "words": WORDS, "cut": CUT, "calls": CALLS, "both": BOTH}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_weather", "now")
]


@pytest.fixture(params=ANSWERS.values(), ids=list(ANSWERS))
def answer(request: pytest.FixtureRequest, stage: Stage) -> Answer:
    answer: Answer = request.param
    if stage.kind == "fake" and (answer.cut or answer.thoughts or (answer.words and answer.calls)):
        pytest.skip("a fake model thinks nothing, has no limit of tokens, and speaks or calls")
    return answer


def test_the_suite_knows_every_kind() -> None:
    assert set(registry._ADAPTERS) == SPEAKS.keys() | ASKS_NOBODY


Said = tuple[str, str, list[tuple[str, Any]]]


def said(message: dict[str, Any]) -> Said:
    """The thoughts and the text of a message, and what it calls with which arguments."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    read = [(call["name"], json.loads(call["arguments"])) for call in calls]
    return message.get("reasoning_content") or "", message["content"] or "", read


def due(answer: Answer) -> Said:
    calls = [(call.name, call.arguments) for call in answer.calls]
    return "".join(answer.thoughts), answer.text, calls


async def replied(stage: Stage, answer: Answer) -> Reply:
    reply = await complete(stage.saying(answer), stage.request(stream=False, tools=TOOLS))
    assert isinstance(reply, Reply), reply
    return reply


async def test_a_whole_answer_says_what_the_upstream_said(stage: Stage, answer: Answer) -> None:
    reply = await replied(stage, answer)
    if reply.wire != "openai":
        assert isinstance(stage, HttpStage)
        assert json.loads(reply.body) == stage.dialect.whole(answer)
        return
    (choice,) = json.loads(reply.body)["choices"]
    assert said(choice["message"]) == due(answer)
    assert choice["finish_reason"] == answer.finish


async def test_a_stream_says_what_the_upstream_said(stage: Stage, answer: Answer) -> None:
    got = await stream(stage.saying(answer), stage.request(stream=True, tools=TOOLS))
    assert got.error is None
    (choice,) = got.completion["choices"]
    assert said(choice["message"]) == due(answer)


async def test_a_stream_folds_to_the_whole_answer(stage: Stage, answer: Answer) -> None:
    reply = await replied(stage, answer)
    if reply.wire != "openai":
        pytest.skip("the whole answer is the upstream's own")
    got = await stream(stage.saying(answer), stage.request(stream=True, tools=TOOLS))
    assert comparable(got.completion) == comparable(json.loads(reply.body))


def comparable(completion: dict[str, Any]) -> dict[str, Any]:
    """A completion without what is made anew each time, and with arguments as what they mean."""
    kept = {name: completion[name] for name in ("object", "model", "choices", "usage")}
    kept["usage"].pop("prompt_tokens_details", None)
    kept["usage"].pop("completion_tokens_details", None)
    for choice in kept["choices"]:
        for call in choice["message"].get("tool_calls") or ():
            call["id"] = call["id"][:5]
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return kept


async def test_the_reason_of_the_end_comes_once_and_is_the_upstreams(
    stage: Stage, answer: Answer
) -> None:
    assert (await replied(stage, answer)).finish_reason == answer.finish
    got = await stream(stage.saying(answer), stage.request(stream=True, tools=TOOLS))
    assert got.finishes == [answer.finish]


async def test_tokens_are_counted_whole_and_streamed(stage: Stage, answer: Answer) -> None:
    whole = (await replied(stage, answer)).usage
    got = await stream(stage.saying(answer), stage.request(stream=True, tools=TOOLS))
    (streamed,) = got.usages
    assert whole is not None
    for usage in (whole, streamed):
        assert usage.prompt_tokens > 0
        assert usage.total_tokens == usage.prompt_tokens + (usage.completion_tokens or 0)
    if isinstance(stage, HttpStage):
        assert (whole.prompt_tokens, whole.completion_tokens) == stage.dialect.counts
        assert (streamed.prompt_tokens, streamed.completion_tokens) == stage.dialect.counts


async def test_parallel_calls_have_contiguous_places_and_one_id_each(stage: Stage) -> None:
    got = await stream(stage.saying(CALLS), stage.request(stream=True, tools=TOOLS))
    deltas = [
        call
        for chunk in got.chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    starts = [delta for delta in deltas if delta.id]
    assert [delta.index for delta in starts] == [0, 1, 2]
    assert len({delta.id for delta in starts}) == 3
    names = [delta.function.name for delta in starts if delta.function]
    assert names == ["get_weather", "get_weather", "now"]
    assert {delta.index for delta in deltas} == {0, 1, 2}
    if isinstance(stage, HttpStage):
        assert [delta.id for delta in starts] == [call.id for call in CALLS.calls]


async def test_every_chunk_is_of_one_answer(stage: Stage) -> None:
    got = await stream(stage.saying(WORDS), stage.request(stream=True))
    assert len({chunk.id for chunk in got.chunks}) == 1
    assert got.chunks[0].id
    assert len({chunk.model for chunk in got.chunks}) == 1


async def test_an_empty_answer_is_an_answer(stage: Stage) -> None:
    got = await stream(stage.saying(Answer()), stage.request(stream=True))
    assert (got.error, got.text, got.finishes) == (None, "", ["stop"])
    assert (await replied(stage, Answer())).finish_reason == "stop"


async def test_the_models_are_those_the_upstream_lists(stage: Stage) -> None:
    names = ["one", "org/two:latest", "drei"]
    assert [model.id for model in await stage.listing(names).list_models()] == names


async def test_a_stream_that_comes_whole_is_read_all_the_same(http_stage: HttpStage) -> None:
    body = json.dumps(http_stage.dialect.whole(BOTH)).encode()
    got = await stream(http_stage.answering(body), http_stage.request(stream=True, tools=TOOLS))
    assert got.error is None
    assert (got.text, got.finishes) == (BOTH.text, ["tool_calls"])
    assert len(got.usages) == 1


async def test_one_adapter_serves_many_at_once(http_stage: HttpStage) -> None:
    def echo(sent: Sent) -> Played:
        asked = http_stage.dialect.read(sent.body)
        words = tuple(f"{asked.question} {number} " for number in range(20))
        return http_stage.said(sent, Answer(words=words))

    adapter = http_stage.playing(echo)

    async def one(question: str) -> None:
        request = http_stage.request(stream=True, messages=[{"role": "user", "content": question}])
        if request.native is not None:
            request.native["messages"] = [{"role": "user", "content": question}]
        got = await stream(adapter, request)
        assert got.error is None
        assert got.text == "".join(f"{question} {number} " for number in range(20))

    await asyncio.gather(*(one(f"question-{number}") for number in range(50)))
    assert all(played.closed for played in http_stage.http.played)
