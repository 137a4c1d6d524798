"""Tools over upstreams that have none, as callers on every wire see them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.emulation.families import family_of
from providers.emulation.writing import Call, Result
from tests.emulation.conftest import MODELS, answering, saying
from tests.emulation.wires import (
    NOW,
    WEATHER,
    WIRES,
    Loop,
    OpenAI,
    read_chunks,
    read_completion,
    sse,
)
from tests.gateway import Answered, Gateway
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Script,
    Upstream,
    chunk,
    completion,
    streaming,
    usage_chunk,
    whole,
)

pytestmark = pytest.mark.once
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=("whole", "streamed"))
HERMES = f"plain/{MODELS['Hermes']}"
PARIS = Call("get_weather", {"city": "Paris", "days": 2})
BROKEN = '<tool_call>{"name": "get_weather", "arguments": {city: Paris}}</tool_call>'


def envelope(model: str) -> Any:
    return family_of(model).envelope


def calling(*calls: Call, model: str = HERMES) -> str:
    written: str = envelope(model).write_calls(calls or [PARIS])
    return written


def ask(gateway: Gateway, *, model: str = HERMES, **fields: Any) -> Answered:
    messages = [{"role": "user", "content": "What about Paris?"}]
    body = {"model": model, "messages": messages, "tools": [WEATHER, NOW], **fields}
    return gateway.chat(body)


def traveller(model: str) -> Any:
    """A model that asks for the weather, then for the time, then tells both; it sees text only."""
    written = envelope(model)

    def answer(body: dict[str, Any]) -> str:
        assert not body.keys() & {"tools", "tool_choice", "functions", "parallel_tool_calls"}
        for message in body["messages"]:
            assert message["role"] in ("system", "user", "assistant")
            assert "tool_calls" not in message
        said = [message["content"] for message in body["messages"]]
        weather = written.write_results([Result("get_weather", "sunny")])
        time = written.write_results([Result("now", "noon")])
        if time in said[-1]:
            assert said[-2] == written.write_calls([Call("now", {})])
            return "Sunny at noon."
        if weather in said[-1]:
            assert said[-2] == f"Let me see.\n\n{written.write_calls([PARIS])}"
            return str(written.write_calls([Call("now", {})]))
        return f"Let me see.\n{written.write_calls([PARIS])}"

    return answer


@STREAMS
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.__name__)
def test_a_loop_of_three_turns_works_on_every_wire(
    gateway: Gateway, upstream: Upstream, wire: type[Loop], stream: bool
) -> None:
    upstream.script = answering(traveller(HERMES))
    loop = wire(gateway, HERMES, stream=stream)
    first = loop.ask("What about Paris?")
    assert (first.text.strip(), first.end) == ("Let me see.", loop.wants)
    assert [call[1:] for call in first.calls] == [("get_weather", {"city": "Paris", "days": 2})]
    assert loop.answered.headers["x-gateway-emulated"] == "tools"
    loop.tell(first.calls[0], "sunny")
    second = loop.go_on()
    assert (second.text, [call[1:] for call in second.calls]) == ("", [("now", {})])
    loop.tell(second.calls[0], "noon")
    assert loop.go_on() == ("Sunny at noon.", [], loop.stopped)


@STREAMS
@pytest.mark.parametrize("family", [name for name in MODELS if "Llama 3.2" not in name])
def test_a_loop_works_in_every_familys_words(
    gateway: Gateway, upstream: Upstream, family: str, stream: bool
) -> None:
    model = f"plain/{MODELS[family]}"
    assert family_of(model).name == family
    upstream.script = answering(traveller(model))
    loop = OpenAI(gateway, model, stream=stream)
    first = loop.ask("What about Paris?")
    loop.tell(first.calls[0], "sunny")
    second = loop.go_on()
    assert (second.end, [call[1] for call in second.calls]) == ("tool_calls", ["now"])
    loop.tell(second.calls[0], "noon")
    assert loop.go_on() == ("Sunny at noon.", [], "stop")


@STREAMS
def test_calls_that_begin_an_answer_are_read_as_python(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    model = f"plain/{MODELS['Llama 3.2 and 4']}"
    upstream.script = saying("[get_weather(city='Paris', days=2), now()]")
    said = OpenAI(gateway, model, stream=stream).ask("What about Paris?")
    assert [call[1:] for call in said.calls] == [
        ("get_weather", {"city": "Paris", "days": 2}),
        ("now", {}),
    ]
    assert len({call[0] for call in said.calls}) == 2


def test_arguments_are_streamed_in_fragments(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = saying(calling(), size=3)
    chunks = sse(ask(gateway, stream=True))
    pieces = [
        call["function"]["arguments"]
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert len(pieces) > 4
    assert read_chunks(chunks).calls[0][2] == PARIS.arguments


@STREAMS
def test_without_tools_everything_passes_untouched(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = saying(calling())
    fields = {"stream": stream, "tools": None} if stream else {"stream": stream}
    body = {"messages": [{"role": "user", "content": "Quote it."}], **fields}
    plain = gateway.chat({**body, "model": HERMES})
    native = gateway.chat({**body, "model": "able/gpt-4o-mini"})
    assert plain.body == native.body
    assert "x-gateway-emulated" not in plain.headers
    sent, other = (asked.json() for asked in upstream.asked)
    assert {**sent, "model": ""} == {**other, "model": ""}


@STREAMS
def test_an_answer_without_a_call_is_the_answer(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    text = "  Nothing to look up: `<tool_call>` is a tag. \n"
    upstream.script = saying(text)
    answered = ask(gateway, stream=stream)
    said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
    assert said == (text, [], "stop")


@STREAMS
def test_a_fallback_emulates_where_it_must_and_only_there(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        body = asked.json()
        if (body["model"] == "gpt-4o-mini") is able_fails:
            peer.answer(500, b"{}")
        elif "tools" in body:
            function = {"name": "now", "arguments": "{}"}
            call = {"id": "call_1", "type": "function", "function": function}
            peer.answer(200, json.dumps(completion(None, tool_calls=[call])).encode())
        else:
            await saying(calling(Call("now", {})))(asked, peer)

    upstream.script = script
    for route, able_fails in (("able-first", True), ("plain-first", False)):
        answered = ask(gateway, model=route, stream=stream)
        said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
        assert ([call[1] for call in said.calls], said.end) == (["now"], "tool_calls")
        assert answered.headers.get("x-gateway-emulated") == ("tools" if able_fails else None)
        assert answered.headers["x-gateway-attempts"] == "2"


# --- choices ------------------------------------------------------------------------------------


@STREAMS
def test_a_choice_of_none_offers_nothing_and_reads_nothing(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = saying(calling())
    answered = ask(gateway, stream=stream, tool_choice="none")
    said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
    assert said == (calling(), [], "stop")
    assert "get_weather" not in json.dumps(upstream.asked[0].json())


@STREAMS
@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ("required", ["get_weather", "now"]),
        ({"type": "function", "function": {"name": "now"}}, ["now"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "now"}}],
                },
            },
            ["now"],
        ),
    ],
)
def test_a_choice_that_demands_a_call_gets_one_or_fails(
    gateway: Gateway, upstream: Upstream, choice: Any, offered: list[str], stream: bool
) -> None:
    upstream.script = saying(calling(Call("now", {})))
    answered = ask(gateway, stream=stream, tool_choice=choice)
    said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
    assert [call[1] for call in said.calls] == ["now"]
    system = upstream.asked[0].json()["messages"][0]["content"]
    assert [name for name in ("get_weather", "now") if f'"name": "{name}"' in system] == offered
    assert "You must answer by calling" in system

    upstream.script = saying(calling() if offered == ["now"] else "I would rather not.")
    failed = ask(gateway, stream=stream, tool_choice=choice)
    error = failed.json()["error"]
    assert (error["code"], error["param"]) == ("tool_choice_not_met", "tool_choice")
    assert failed.status == 422


@STREAMS
def test_what_a_refused_answer_cost_is_in_the_ledger(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = saying("I would really rather not.")
    failed = ask(gateway, tool_choice="required", stream=stream)
    assert failed.status == 422, "nothing is shown before the call that is owed"
    row = gateway.usage_row(failed.headers["x-request-id"])
    assert (row["status"], row["tokens_input"], row["tokens_output"]) == ("error", 9, 3)


@STREAMS
def test_one_call_at_a_time_means_one(gateway: Gateway, upstream: Upstream, stream: bool) -> None:
    upstream.script = saying(calling(PARIS, Call("now", {})))
    answered = ask(gateway, stream=stream, parallel_tool_calls=False)
    said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
    assert [call[1] for call in said.calls] == ["get_weather"]


@STREAMS
def test_functions_are_tools_by_their_older_name(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = saying(calling())
    messages = [
        {"role": "user", "content": "And?"},
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "now", "arguments": "{}"},
        },
        {"role": "function", "name": "now", "content": "noon"},
    ]
    body = {"model": HERMES, "messages": messages, "functions": [WEATHER["function"]]}
    answered = gateway.chat({**body, "stream": stream})
    told = sse(answered) if stream else [answered.json()]
    key = "delta" if stream else "message"
    calls = [choice[key].get("function_call") or {} for each in told for choice in each["choices"]]
    assert [call["name"] for call in calls if "name" in call] == ["get_weather"]
    assert json.loads("".join(call.get("arguments", "") for call in calls)) == PARIS.arguments
    ends = [choice["finish_reason"] for each in told for choice in each["choices"]]
    assert [end for end in ends if end] == ["function_call"]
    _, _, called, result = upstream.asked[0].json()["messages"]
    assert called["content"] == calling(Call("now", {}))
    assert "noon" in result["content"]


def native(*names: str, stream: bool) -> Script:
    """A model with tools of its own that calls these."""
    calls = [
        {"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for at, name in enumerate(names)
    ]
    if not stream:
        return whole(
            200, completion(None if calls else "No.", **({"tool_calls": calls} if calls else {}))
        )
    pieces = [chunk(tool_calls=[{"index": at, **call}]) for at, call in enumerate(calls)]
    end = chunk("tool_calls" if calls else "stop")
    return streaming([*(pieces or [chunk(content="No.")]), end, usage_chunk(9, 3), DONE])


@STREAMS
def test_a_model_with_tools_that_takes_no_choice_is_held_to_it(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    choice = {"type": "function", "function": {"name": "now"}}
    upstream.script = native("get_weather", "now", stream=stream)
    answered = ask(gateway, model="able/unforced", stream=stream, tool_choice=choice)
    said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
    assert [call[1] for call in said.calls] == ["now"]
    assert answered.headers["x-gateway-emulated"] == "tool_choice"
    sent = upstream.asked[0].json()
    assert "tool_choice" not in sent
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["now"]
    assert "You must answer by calling the tool now." in sent["messages"][0]["content"]

    upstream.script = native(stream=stream)
    failed = ask(gateway, model="able/unforced", stream=stream, tool_choice="required")
    assert (failed.status, failed.json()["error"]["code"]) == (422, "tool_choice_not_met")

    none = ask(gateway, model="able/unforced", stream=stream, tool_choice="none")
    assert none.status == 200
    assert "tools" not in upstream.asked[-1].json()


@STREAMS
def test_a_model_that_only_calls_several_tools_at_once_is_held_to_one(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = native("now", "get_weather", stream=stream)
    fields: dict[str, Any] = {"model": "able/one-by-one", "parallel_tool_calls": False}
    answered = ask(gateway, stream=stream, **fields)
    said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
    assert [call[1] for call in said.calls] == ["now"]
    assert answered.headers["x-gateway-emulated"] == "parallel_tools"
    assert "parallel_tool_calls" not in upstream.asked[0].json()


@STREAMS
def test_a_model_that_has_it_all_is_asked_as_it_is(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = native("now", "get_weather", stream=stream)
    fields = {"tool_choice": "required", "parallel_tool_calls": False}
    answered = ask(gateway, model="able/gpt-4o-mini", stream=stream, **fields)
    assert "x-gateway-emulated" not in answered.headers
    sent = upstream.asked[0].json()
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    assert len(sent["messages"]) == 1


# --- what cannot be read ------------------------------------------------------------------------


def test_a_malformed_call_is_asked_for_again_once(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = saying(BROKEN, calling())
    answered = ask(gateway)
    assert read_completion(answered.json()).calls[0][1:] == ("get_weather", PARIS.arguments)
    assert answered.headers["x-gateway-emulated"] == "tools; malformed"
    assert answered.headers["x-gateway-attempts"] == "2"
    assert answered.json()["usage"]["total_tokens"] == 24
    *_, said, complaint = upstream.asked[1].json()["messages"]
    assert said == {"role": "assistant", "content": BROKEN}
    assert complaint["role"] == "user"
    assert "name in quotes" in complaint["content"]
    row = gateway.usage_row(answered.headers["x-request-id"])
    assert (row["attempts"], row["tokens_input"], row["tokens_output"]) == (2, 18, 6)


def test_a_call_that_stays_malformed_is_shown_whole_and_told(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = saying(f"So: {BROKEN}")
    answered = ask(gateway)
    assert read_completion(answered.json()) == (f"So: {BROKEN}", [], "stop")
    assert answered.headers["x-gateway-emulated"] == "tools; malformed"
    assert len(upstream.asked) == 2


def test_a_call_that_breaks_off_is_not_shown_and_the_answer_says_it_was_cut(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = saying('So: <tool_call>{"name": "get_weather", "arguments": {"city": "Pa')
    answered = ask(gateway)
    assert read_completion(answered.json()) == ("So: ", [], "length")
    assert answered.headers["x-gateway-emulated"] == "tools; malformed"


def test_a_stream_is_not_asked_for_again(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = saying(BROKEN)
    answered = ask(gateway, stream=True)
    assert read_chunks(sse(answered)) == (BROKEN, [], "stop")
    assert answered.headers["x-gateway-emulated"] == "tools; malformed"
    assert len(upstream.asked) == 1


def test_a_call_that_turns_out_malformed_after_its_beginning_was_streamed_is_an_error(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = saying('<tool_call>{"name": "get_weather", "arguments": {"city": Paris}}')
    answered = ask(gateway, stream=True)
    assert sse(answered)[-1]["error"]["code"] == "malformed_tool_call"
    assert b"[DONE]" not in answered.body
    row = gateway.usage_row(answered.headers["x-request-id"])
    assert (row["status"], row["tokens_output"] > 0) == ("error", True)


@pytest.mark.parametrize("arguments", ["{", "[]", '"x"', "nonsense"])
def test_malformed_arguments_in_the_history_are_the_callers_mistake(
    gateway: Gateway, upstream: Upstream, arguments: str
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]
    answered = ask(gateway, messages=messages)
    assert answered.status == 400  # M30
    assert answered.json()["error"]["param"] == "messages[1].tool_calls[0].function.arguments"
    assert upstream.asked == []


# --- other kinds --------------------------------------------------------------------------------


@STREAMS
def test_a_model_that_takes_no_system_message_is_told_by_the_user(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = saying(calling())
    answered = ask(gateway, model="plain/no-system-1", stream=stream)
    said = read_chunks(sse(answered)) if stream else read_completion(answered.json())
    assert [call[1] for call in said.calls] == ["get_weather"]
    (message,) = upstream.asked[0].json()["messages"]
    assert message["role"] == "user"
    assert message["content"].endswith("What about Paris?")
    assert "<tools>" in message["content"]


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.__name__)
def test_an_ollama_model_without_tools_gets_them_from_us(
    gateway: Gateway, upstream: Upstream, wire: type[Loop]
) -> None:
    message = {"role": "assistant", "content": calling(model="qwen3:latest")}
    line = {"model": "qwen3", "created_at": "2026-01-01T00:00:00Z", "message": message}
    counts = {"prompt_eval_count": 5, "eval_count": 4}
    upstream.script = whole(200, {**line, "done": True, "done_reason": "stop", **counts})
    said = wire(gateway, "llama/qwen3:latest", stream=False).ask("What about Paris?")
    assert [call[1:] for call in said.calls] == [("get_weather", PARIS.arguments)]
    assert "tools" not in upstream.asked[0].json()


@STREAMS
def test_several_choices_are_read_each_for_itself(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    answer = completion("Sunny.")
    answer["choices"].append(
        {**answer["choices"][0], "index": 1, "message": {"role": "assistant", "content": calling()}}
    )
    upstream.script = whole(200, answer)
    answered = ask(gateway, n=2, stream=stream)
    told = sse(answered) if stream else [answered.json()]
    by_index: dict[int, Any] = {}
    for choice in (choice for each in told for choice in each["choices"]):
        by_index.setdefault(choice["index"], []).append(choice)
    said = [
        read_chunks([{"choices": by_index[at]}])
        if stream
        else read_completion({"choices": by_index[at]})
        for at in (0, 1)
    ]
    assert said[0] == ("Sunny.", [], "stop")
    assert (said[1].calls[0][1], said[1].end) == ("get_weather", "tool_calls")
