"""What models are told of a session: all they can be told, and nothing they would refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import anthropic_upstream as claude
from tests.scripted_model import call
from tests.sessions_app.conftest import CLAUDE, OPENAI, Ask, echo, said
from tests.tool_loop.stage import answers, calling, pieces_of, streamed_call
from tests.upstream import Upstream, completion, whole

THOUGHT = claude.SIGNED
CLOCK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def begin(ask: Ask, **fields: Any) -> str:
    made = ask("POST", "", {"model": OPENAI, **fields})
    assert made.status == 201, made.body
    name: str = made.json()["id"]
    return name


def say(ask: Ask, session: str, body: dict[str, Any]) -> dict[str, Any]:
    answered = ask("POST", f"/{session}/chat", body)
    assert answered.status == 200, answered.body
    found: dict[str, Any] = answered.json()
    return found


def test_signed_thoughts_go_to_their_maker_only(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, model=CLAUDE)
    upstream.script = whole(200, claude.message(THOUGHT, claude.text("Four.")))
    say(ask, session, said("Two and two?"))
    upstream.script = echo
    ask("PATCH", f"/{session}", {"model": OPENAI})
    say(ask, session, said("Sure?"))
    assert upstream.asked[-1].json()["messages"][1] == {"role": "assistant", "content": "Four."}
    ask("PATCH", f"/{session}", {"model": CLAUDE})
    say(ask, session, said("Really?"))
    assert upstream.asked[-1].json()["messages"][1]["content"][0] == THOUGHT


def test_thoughts_are_told_again_only_where_a_loop_over_tools_goes_on(
    ask: Ask, upstream: Upstream
) -> None:
    session = begin(ask, tools=[CLOCK])
    asks = calling(call("Paris", name="look"), reasoning_content="I should look.")
    upstream.script = whole(200, asks)
    say(ask, session, said("What time is it?"))
    upstream.script = echo
    result = {"role": "tool", "tool_call_id": "call_0", "content": "Noon."}
    say(ask, session, {"messages": [result]})
    assert upstream.asked[-1].json()["messages"][1]["reasoning_content"] == "I should look."
    say(ask, session, said("Thanks."))
    assert "reasoning_content" not in upstream.asked[-1].json()["messages"][1]


def test_a_summary_stands_in_the_one_system_prompt(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, system_prompt="Be kind.")
    say(ask, session, said("One"))
    say(ask, session, said("Two"))
    assert ask("POST", f"/{session}/compact").status == 200
    say(ask, session, said("Three"))
    first, *rest = upstream.asked[-1].json()["messages"]
    assert first["role"] == "system"
    assert first["content"].startswith("Be kind.\n\nSummary")
    assert [each["role"] for each in rest] == ["user", "assistant", "user"]


def test_calls_are_summed_up_in_words(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, tools=[CLOCK])
    upstream.script = whole(200, calling(call("Paris", name="look")))
    say(ask, session, said("What time is it?"))
    upstream.script = echo
    say(
        ask, session, {"messages": [{"role": "tool", "tool_call_id": "call_0", "content": "Noon."}]}
    )
    say(ask, session, said("Thanks."))
    upstream.asked = []
    compacted = ask("POST", f"/{session}/compact", {"model": CLAUDE})
    assert compacted.json()["compacted_messages"] == 4
    (asked,) = upstream.asked
    assert b'"tool_use"' not in asked.body
    assert b"called look" in asked.body
    assert b"Noon." in asked.body


def test_what_is_longer_than_a_window_is_summed_up_in_parts(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask)
    for number in range(8):
        say(ask, session, said(f"{number} " + "word " * 60))
    upstream.asked = []
    compacted = ask("POST", f"/{session}/compact", {"model": "scripted/tiny"}).json()
    assert compacted["compacted_messages"] == 14
    assert len(upstream.asked) > 1
    assert all(len(asked.body) < 4 * 600 for asked in upstream.asked)
    assert ask("GET", f"/{session}").json()["message_count"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_gateway_ran_is_kept_once_and_in_order(
    ask: Ask, upstream: Upstream, stream: bool
) -> None:
    session = begin(ask, tools=["clock"], tool_execution="server")
    turns: list[Any] = [
        calling(call("Paris", name="clock"), says="Let me see."),
        {"time": "noon"},
        completion("It is noon."),
    ]
    if stream:
        deltas = [{"tool_calls": [part]} for part in streamed_call(0, "Paris", "clock")]
        turns[0] = pieces_of({"content": "Let me see."}, *deltas, finish="tool_calls", usage=(9, 4))
        turns[2] = pieces_of({"content": "It is noon."}, finish="stop", usage=(9, 4))
    upstream.script = answers(*turns)
    answered = ask("POST", f"/{session}/chat", {**said("What time is it?"), "stream": stream})
    assert answered.status == 200, answered.body
    asked, called, result, answer = ask("GET", f"/{session}").json()["messages"]
    assert (asked["content"], called["content"]) == ("What time is it?", "Let me see.")
    assert called["tool_calls"][0]["id"] == result["tool_call_id"]
    assert "noon" in result["content"]
    assert answer["content"] == "It is noon."
    given = [each for each in upstream.asked if each.path == "/clock"]
    assert [json.loads(each.body)["session_id"] for each in given] == [session]


@pytest.mark.parametrize("provider", ["scripted", None])
def test_a_new_model_may_bring_its_provider_along(
    ask: Ask, upstream: Upstream, provider: str | None
) -> None:
    session = begin(ask, provider=provider, model="gpt-4o-mini" if provider else OPENAI)
    say(ask, session, said("Hi"))
    ask("PATCH", f"/{session}", {"model": CLAUDE})
    say(ask, session, said("Hi"))
    assert upstream.asked[-1].path == "/v1/messages"
    ask("PATCH", f"/{session}", {"model": "smart"})
    say(ask, session, said("Hi"))
    assert upstream.asked[-1].path == "/v1/chat/completions"


def test_a_branch_needs_no_body(ask: Ask) -> None:
    session = begin(ask)
    say(ask, session, said("One"))
    branch = ask("POST", f"/{session}/fork")
    assert (branch.status, branch.json()["message_count"]) == (201, 2)
