"""Calls of tools that the gateway runs: what upstreams are asked, and what callers get."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest

from chat.errors import UpstreamOverloaded, UpstreamRateLimited, UpstreamRejected
from events_app.publishing import install_sink
from gateway_api import pipeline, tool_loop
from gateway_api.tool_runs import MAX_CALLS
from tests import anthropic_upstream as claude
from tests.scripted_model import call
from tests.tool_loop.stage import (
    Stage,
    answers,
    calling,
    folded,
    pieces_of,
    streamed_call,
)
from tests.upstream import chat_line, completion, last_line
from tools_app.results import ToolResult
from usage.lines import Closed, Opened, Progress, decode, interrupted
from usage.pricing import Tier, UnitPrices

pytestmark = pytest.mark.once


def lines(stage: Stage) -> list[Any]:
    stretch = stage.journal.read()
    assert stretch is not None
    return [decode(line) for line in stretch.lines]


def ledger(stage: Stage) -> Closed:
    """The one closed line."""
    (closed,) = (line for line in lines(stage) if isinstance(line, Closed))
    return closed


async def test_the_model_is_asked_again_with_what_the_tool_said(stage: Stage) -> None:
    stage.upstream.script = answers(
        calling(call("Paris"), says="Let me see."), completion("It is sunny.")
    )
    answered = await stage.complete()
    first, second = stage.bodies()
    assert "tool_execution" not in first
    asked = {"role": "user", "content": "How is it in Paris?"}
    called = {"role": "assistant", "content": "Let me see.", "tool_calls": [call("Paris")]}
    told = {"role": "tool", "tool_call_id": "call_0", "content": "Sunny in Paris."}
    assert first["messages"] == [asked]
    assert second["messages"] == [asked, called, told]
    assert second["tools"] == first["tools"]
    choice = answered["choices"][0]
    assert choice["message"]["content"] == "Let me see.\n\nIt is sunny."
    assert choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]
    assert answered["tool_messages"] == [called, told]


async def test_it_is_one_request_in_the_ledger_with_the_sum_of_all_rounds(stage: Stage) -> None:
    stage.upstream.script = answers(calling(call("Paris")), completion("Sunny."))
    answered = await stage.complete()
    usage = answered["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        18,
        6,
        24,
    )
    closed = ledger(stage)
    assert (closed.tokens_input, closed.tokens_output, closed.attempts) == (18, 6, 2)
    assert (closed.status, closed.finish_reason, closed.estimated) == ("success", "stop", False)


async def test_calls_of_one_turn_run_at_the_same_time(stage: Stage) -> None:
    stage.upstream.script = answers(
        calling(call("Paris"), call("Rome", 1)), completion("Both sunny.")
    )
    here: dict[str, asyncio.Event] = {"Paris": asyncio.Event(), "Rome": asyncio.Event()}

    async def meet(name: str, arguments: str, call_id: str) -> ToolResult:
        city = json.loads(arguments)["city"]
        here[city].set()
        await asyncio.wait_for(here["Rome" if city == "Paris" else "Paris"].wait(), 5)
        return ToolResult(city)

    await stage.complete(tool=meet)
    results = stage.bodies()[1]["messages"][-2:]
    assert [each["content"] for each in results] == ["Paris", "Rome"]
    assert [each["tool_call_id"] for each in results] == ["call_0", "call_1"]


async def test_a_stream_goes_on_through_the_rounds(stage: Stage) -> None:
    stage.upstream.script = answers(
        pieces_of(
            {"content": "Let me "},
            {"content": "see."},
            *({"tool_calls": [part]} for part in streamed_call(0, "Paris")),
            finish="tool_calls",
            usage=(9, 4),
        ),
        pieces_of({"content": "It is "}, {"content": "sunny."}, finish="stop", usage=(30, 3)),
    )
    chunks = await stage.stream()
    told = folded(chunks)
    assert told["choices"][0]["message"]["content"] == "Let me see.\n\nIt is sunny."
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert not any(choice.delta.tool_calls for choice in choices)
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (39, 7)
    closed = ledger(stage)
    assert (closed.tokens_input, closed.tokens_output, closed.attempts) == (39, 7, 2)
    messages = stage.bodies()[1]["messages"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    assert chunks[-2].tool_messages == messages[1:]


async def test_the_first_chunk_is_there_while_the_tool_still_runs(stage: Stage) -> None:
    stage.upstream.script = answers(
        pieces_of(
            *({"tool_calls": [part]} for part in streamed_call(0, "Paris")),
            finish="tool_calls",
            usage=(9, 4),
        )
    )
    running = asyncio.Event()

    async def slow(name: str, arguments: str, call_id: str) -> ToolResult:
        running.set()
        await asyncio.Event().wait()
        return ToolResult("never")

    async with aclosing(pipeline.stream(stage.exchange(tool=slow, stream=True))) as batches:
        first = await asyncio.wait_for(anext(batches), 5)
        assert first.chunks[0].choices[0].delta.role == "assistant"
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.wait_for(running.wait(), 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    closed = ledger(stage)
    assert (closed.status, closed.tokens_input, closed.tokens_output) == ("aborted", 9, 4)
    assert closed.estimated is False


async def test_a_turn_that_calls_the_callers_tool_too_is_returned_whole(stage: Stage) -> None:
    both = [call("Paris"), call("Paris", 1, "open_door")]
    stage.upstream.script = answers(calling(*both))
    answered = await stage.complete()
    choice = answered["choices"][0]
    assert (choice["message"]["tool_calls"], choice["finish_reason"]) == (both, "tool_calls")
    assert len(stage.upstream.asked) == 1
    assert "tool_messages" not in answered


async def test_a_mixed_turn_is_streamed_whole(stage: Stage) -> None:
    deltas = [*streamed_call(0, "Paris"), *streamed_call(1, "Rome", "open_door")]
    stage.upstream.script = answers(
        pieces_of(*({"tool_calls": [part]} for part in deltas), finish="tool_calls", usage=(9, 4))
    )
    chunks = await stage.stream()
    choice = folded(chunks)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [call("Paris"), call("Rome", 1, "open_door")]


async def test_the_callers_own_calls_are_streamed_as_they_come(stage: Stage) -> None:
    """M37"""
    fragments = streamed_call(0, "Paris", "open_door")
    stage.upstream.script = answers(
        pieces_of(*({"tool_calls": [part]} for part in fragments), finish="stop", usage=(1, 1))
    )
    chunks = await stage.stream()
    parts = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.tool_calls]
    assert len(parts) == 3


async def test_what_a_returned_turn_lacks_is_run_when_it_comes_back(stage: Stage) -> None:
    both = [call("Paris"), call("Paris", 1, "open_door")]
    messages = [
        {"role": "user", "content": "Weather, and open the door."},
        {"role": "assistant", "content": None, "tool_calls": both},
        {"role": "tool", "tool_call_id": "call_1", "content": "opened"},
    ]
    stage.upstream.script = answers(completion("Done."))
    answered = await stage.complete(messages=messages)
    (body,) = stage.bodies()
    told = {"role": "tool", "tool_call_id": "call_0", "content": "Sunny in Paris."}
    assert body["messages"] == [*messages, told]
    assert answered["tool_messages"] == [told]
    assert answered["usage"]["prompt_tokens"] == 9


async def test_nothing_is_run_while_the_callers_own_answers_lack(stage: Stage) -> None:
    messages = [
        {"role": "user", "content": "Weather, and open the door."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call("Paris"), call("Paris", 1, "open_door")],
        },
    ]
    stage.upstream.script = answers(completion("Done."))
    await stage.complete(messages=messages)
    assert stage.bodies()[0]["messages"] == messages


async def test_a_failing_tool_is_something_the_model_reads(stage: Stage) -> None:
    async def broken(name: str, arguments: str, call_id: str) -> ToolResult:
        return ToolResult("The tool answered 500.", "http_500")

    stage.upstream.script = answers(calling(call("Paris")), completion("I could not tell."))
    answered = await stage.complete(tool=broken)
    assert stage.bodies()[1]["messages"][-1]["content"] == "The tool answered 500."
    assert answered["choices"][0]["message"]["content"] == "I could not tell."


async def test_arguments_that_are_no_object_are_not_run_but_shown(stage: Stage) -> None:
    wrong = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{"}}
    stage.upstream.script = answers(calling(wrong), completion("Sorry."))
    await stage.complete()
    assistant, tool = stage.bodies()[1]["messages"][-2:]
    shown = json.loads(assistant["tool_calls"][0]["function"]["arguments"])
    assert list(shown.values()) == ["{"]
    assert tool["content"] == "Not run: the arguments must be a JSON object."


async def test_calls_without_an_id_of_their_own_get_one(stage: Stage) -> None:
    twice = [call("Paris"), call("Rome")]
    stage.upstream.script = answers(calling(*twice), completion("Sunny."))
    await stage.complete()
    assistant, *told = stage.bodies()[1]["messages"][-3:]
    ids = [each["id"] for each in assistant["tool_calls"]]
    assert len(set(ids)) == 2
    assert [each["tool_call_id"] for each in told] == ids
    assert [each["content"] for each in told] == ["Sunny in Paris.", "Sunny in Rome."]


async def test_rounds_are_bounded_and_the_last_turn_is_the_callers(stage: Stage) -> None:
    stage.upstream.script = answers(calling(call("Paris")))
    answered = await stage.complete(max_tool_rounds=3)
    assert len(stage.upstream.asked) == 4
    choice = answered["choices"][0]
    assert (choice["finish_reason"], choice["message"]["tool_calls"]) == (
        "tool_calls",
        [call("Paris")],
    )
    assert ledger(stage).tokens_input == 36


async def test_the_last_turns_calls_are_streamed_to_the_caller(stage: Stage) -> None:
    stage.upstream.script = answers(
        pieces_of(
            *({"tool_calls": [part]} for part in streamed_call(0, "Paris")),
            finish="tool_calls",
            usage=(9, 4),
        )
    )
    chunks = await stage.stream(max_tool_rounds=1)
    choice = folded(chunks)["choices"][0]
    assert choice["message"]["tool_calls"] == [call("Paris")]
    assert choice["finish_reason"] == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 18


async def test_what_tools_say_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_loop, "MAX_ADDED", 5000)

    async def talk(name: str, arguments: str, call_id: str) -> ToolResult:
        return ToolResult("x" * 3000)

    stage.upstream.script = answers(calling(call("Paris")))
    answered = await stage.complete(tool=talk)
    assert len(stage.upstream.asked) == 3
    assert answered["choices"][0]["finish_reason"] == "tool_calls"


async def test_calls_of_one_turn_are_bounded(stage: Stage) -> None:
    many = [call("Paris", number) for number in range(MAX_CALLS + 1)]
    stage.upstream.script = answers(calling(*many), completion("Sunny."))
    await stage.complete()
    *_, last, beyond = stage.bodies()[1]["messages"]
    assert last["content"] == "Sunny in Paris."
    assert "Not run" in beyond["content"]


async def test_tools_run_no_longer_than_the_request_may(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_loop, "RUNS_FOR_S", 0.2)

    async def hang(name: str, arguments: str, call_id: str) -> ToolResult:
        await asyncio.Event().wait()
        return ToolResult("never")

    stage.upstream.script = answers(calling(call("Paris")))
    answered = await stage.complete(tool=hang)
    assert "too long" in stage.bodies()[1]["messages"][-1]["content"]
    assert answered["choices"][0]["finish_reason"] == "tool_calls"
    assert len(stage.upstream.asked) == 2


async def test_a_forced_choice_is_free_after_its_call(stage: Stage) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        stage.upstream.asked = []
        stage.upstream.script = answers(calling(call("Paris")), completion("Sunny."))
        await stage.complete(tool_choice=choice)
        first, second = stage.bodies()
        assert (first["tool_choice"], second["tool_choice"]) == (choice, "auto")


async def test_a_turn_that_was_cut_off_is_not_run(stage: Stage) -> None:
    cut = calling(call("Paris"))
    cut["choices"][0]["finish_reason"] = "length"
    stage.upstream.script = answers(cut)
    answered = await stage.complete()
    assert answered["choices"][0]["finish_reason"] == "length"
    assert len(stage.upstream.asked) == 1


async def test_a_formatted_answer_is_the_last_turns_alone(stage: Stage) -> None:
    """M46"""
    wanted = {"type": "json_object"}
    stage.upstream.script = answers(
        calling(call("Paris"), says="Let me see."), completion('{"sky": "blue"}')
    )
    answered = await stage.complete(response_format=wanted)
    assert answered["choices"][0]["message"]["content"] == '{"sky": "blue"}'
    stage.upstream.script = answers(
        pieces_of(
            {"content": "Let me see."},
            *({"tool_calls": [part]} for part in streamed_call(0, "Paris")),
            finish="tool_calls",
            usage=(9, 4),
        ),
        pieces_of({"content": '{"sky":'}, {"content": '"blue"}'}, finish="stop", usage=(9, 4)),
    )
    told = folded(await stage.stream(response_format=wanted))
    assert told["choices"][0]["message"]["content"] == '{"sky":"blue"}'


async def test_a_failure_of_a_later_round_is_billed_what_came_before(stage: Stage) -> None:
    refusal = (400, {"error": {"message": "no"}})
    stage.upstream.script = answers(calling(call("Paris")), refusal)
    with pytest.raises(UpstreamRejected):
        await stage.complete()
    closed = ledger(stage)
    assert (closed.status, closed.attempts) == ("error", 2)
    assert (closed.tokens_input, closed.tokens_output) == (9, 3)


async def test_what_failed_after_a_tool_was_run_is_not_to_be_tried_again(stage: Stage) -> None:
    busy = (503, {"error": {"message": "busy"}})
    stage.upstream.script = answers(busy)
    with pytest.raises(UpstreamOverloaded) as before:
        await stage.complete()
    stage.upstream.script = answers(calling(call("Paris")), (429, {}))
    with pytest.raises(UpstreamRateLimited) as after:
        await stage.complete()
    assert after.value.should_retry is False
    assert before.value.retryable


async def test_ids_are_never_used_twice_in_a_conversation(stage: Stage) -> None:
    stage.upstream.script = answers(
        calling(call("Paris")), calling(call("Rome")), completion("Sunny.")
    )
    await stage.complete()
    *_, first, told, second, told_too = stage.bodies()[2]["messages"]
    ids = [each["tool_calls"][0]["id"] for each in (first, second)]
    assert ids[0] == "call_0" != ids[1]
    assert [told["tool_call_id"], told_too["tool_call_id"]] == ids


async def test_later_rounds_ask_who_answered_the_first(stage: Stage) -> None:
    """M40"""
    broken, good = stage.target("openai-compatible", port=9), stage.target("openai")
    stage.upstream.script = answers(calling(call("Paris")), completion("Sunny."))
    await stage.complete(broken, good)
    assert ledger(stage).attempts == 3


async def test_a_worker_killed_between_two_rounds_is_billed_the_rounds_that_were(
    stage: Stage,
) -> None:
    """M23"""
    stage.upstream.script = answers(calling(call("Paris")), completion("Sunny."))
    seen: list[Closed] = []

    async def look(name: str, arguments: str, call_id: str) -> ToolResult:
        written = lines(stage)
        (opened,) = (line for line in written if isinstance(line, Opened))
        *_, progress = (line for line in written if isinstance(line, Progress))
        seen.append(interrupted(opened, progress))
        return ToolResult("seen")

    await stage.complete(tool=look)
    assert (seen[0].tokens_input, seen[0].tokens_output, seen[0].attempts) == (9, 3, 1)


async def test_each_round_is_priced_by_itself(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tier of prices is for a prompt of that size, not for several that add up to it."""
    dear = Tier(10, Decimal(100), Decimal(100), None, None)
    prices = UnitPrices("p", Decimal(1), Decimal(1), None, None, tiers=(dear,))
    monkeypatch.setattr("gateway_api.exchange._prices_of", lambda target, second: prices)
    stage.upstream.script = answers(calling(call("Paris")), completion("Sunny."))
    await stage.complete()
    assert ledger(stage).cost_picodollars == 24 * 1_000_000


async def test_the_loop_speaks_anthropics_words(stage: Stage) -> None:
    asks = claude.message(
        claude.text("Let me see."),
        claude.tool_use("toolu_1", "get_weather", city="Paris"),
        stop="tool_use",
    )
    stage.upstream.script = answers(asks, claude.message(claude.text("It is sunny.")))
    answered = await stage.complete(stage.target("anthropic"), max_tokens=100)
    assert answered["choices"][0]["message"]["content"] == "Let me see.\n\nIt is sunny."
    assistant, user = stage.bodies()[1]["messages"][-2:]
    assert assistant["content"][-1] == claude.tool_use("toolu_1", "get_weather", city="Paris")
    assert user["role"] == "user"
    assert (user["content"][0]["type"], user["content"][0]["tool_use_id"]) == (
        "tool_result",
        "toolu_1",
    )


async def test_signed_thoughts_go_back_untouched(stage: Stage) -> None:
    """M32"""
    stage.upstream.script = answers(
        claude.stream(
            claude.thinking_block(0, "Hm", "m.", signature="sig=="),
            claude.tool_block(1, "toolu_1", "get_weather", '{"city":', '"Paris"}'),
            stop="tool_use",
        ),
        claude.stream(claude.text_block(0, "It is ", "sunny.")),
    )
    told = folded(await stage.stream(stage.target("anthropic"), max_tokens=100))
    assert told["choices"][0]["message"]["content"] == "It is sunny."
    assistant = stage.bodies()[1]["messages"][1]
    assert assistant["content"][0] == {"type": "thinking", "thinking": "Hmm.", "signature": "sig=="}


async def test_the_loop_speaks_ollamas_words(stage: Stage) -> None:
    calls = [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]
    stage.upstream.script = answers(
        [chat_line(tool_calls=calls), last_line()], [chat_line(content="It is sunny."), last_line()]
    )
    told = folded(await stage.stream(stage.target("ollama")))
    assert told["choices"][0]["message"]["content"] == "It is sunny."
    assistant, tool = stage.bodies()[1]["messages"][-2:]
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}
    assert (tool["role"], tool["content"]) == ("tool", "Sunny in Paris.")


async def test_each_run_is_told_of(stage: Stage) -> None:
    async def half(name: str, arguments: str, call_id: str) -> ToolResult:
        return ToolResult("no", "http_500") if "Rome" in arguments else ToolResult("Sunny.")

    stage.upstream.script = answers(calling(call("Paris"), call("Rome", 1)), completion("Well."))
    install_sink(stage.journal.note)
    try:
        await stage.complete(tool=half)
    finally:
        install_sink(None)
    told = [line for line in lines(stage) if getattr(line, "type", "").startswith("tool_")]
    assert sorted(line.type for line in told) == ["tool_completed"] * 2 + ["tool_started"] * 2
    assert {line.request_id for line in told} == {"req-1"}
    ended = {line.fields["call_id"]: line.fields for line in told if "success" in line.fields}
    assert ended["call_0"]["tool_name"] == "get_weather"
    assert (ended["call_0"]["success"], ended["call_0"]["error"]) == (True, None)
    assert (ended["call_1"]["success"], ended["call_1"]["error"]) == (False, "http_500")
    assert ended["call_0"]["duration_ms"] >= 0
