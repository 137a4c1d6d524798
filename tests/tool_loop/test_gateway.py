"""Registered tools that a running gateway calls, on every wire, and callers who leave."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import anthropic_upstream as claude
from tests.conftest import spare_database
from tests.gateway import KEY, Gateway, Told, configuration, wait_until
from tests.scripted_model import call
from tests.tool_loop.stage import OWN, answers, calling, pieces_of, streamed_call
from tests.tools_app.stage import mcp_process
from tests.upstream import Asked, Peer, Upstream, completion, scripted_upstream, silence

OPERATOR = "gw-test-operator-0123456789abcdef0123456789"
ASKED = [{"role": "user", "content": "How is it in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STREAMED_TURN = pieces_of(
    {"content": "Let me see."},
    *({"tool_calls": [part]} for part in streamed_call(0, "Paris")),
    finish="tool_calls",
    usage=(9, 4),
)
STREAMED_END = pieces_of({"content": "It is "}, {"content": "sunny."}, finish="stop", usage=(30, 3))


@pytest.fixture(scope="module")
def _model() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def _tool() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


async def sunny(asked: Asked, peer: Peer) -> None:
    city = asked.json()["arguments"]["city"]
    peer.answer(200, json.dumps({"weather": f"sunny in {city}"}).encode())


def configured(model: Upstream) -> dict[str, Any]:
    found = configuration(model.base_url)
    (scripted,) = found["providers"]
    found["providers"] += [
        {**scripted, "name": "native", "options": {"responses": True}},
        {
            **scripted,
            "name": "claude",
            "kind": "anthropic",
            "base_url": model.base_url.removesuffix("/v1"),
        },
    ]
    found["keys"].append({"name": "operator", "secret": OPERATOR, "admin": True})
    return found


def register(gateway: Gateway, tool: Upstream) -> None:
    url = f"http://127.0.0.1:{tool.port}/weather"
    for registration in (
        {"name": "get_weather", "kind": "http", "url": url, "parameters": CITY, "timeout": 1.0},
        {"name": "ask_user", "kind": "client", "parameters": {"type": "object"}},
    ):
        answered = gateway.post(
            "/v1/tools/register", registration, authorization=f"Bearer {OPERATOR}"
        )
        assert answered.status == 201, answered.body
    own = {"authorization": f"Bearer {KEY}"}
    wait_until(
        lambda: gateway.call("GET", "/v1/tools/ask_user", headers=own).status == 200, seconds=5
    )


@pytest.fixture(scope="module")
def served(
    _model: Upstream, _tool: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("tools")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.environment["ABSTRACTCORE_OUTBOUND_ALLOW"] = "127.0.0.0/8"
        gateway.apply(configured(_model))
        try:
            gateway.start()
            register(gateway, _tool)
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def model(_model: Upstream) -> Upstream:
    _model.script, _model.asked = silence, []
    return _model


@pytest.fixture
def tool(_tool: Upstream) -> Upstream:
    _tool.script, _tool.asked = sunny, []
    return _tool


def request(**fields: Any) -> dict[str, Any]:
    return {
        "model": "scripted/gpt-4o-mini",
        "messages": ASKED,
        "tools": ["get_weather"],
        "tool_execution": "server",
        **fields,
    }


def events_of(gateway: Gateway, request_id: str, *, ended: bool = True) -> list[Told]:
    def found() -> list[Told]:
        return [each for each in gateway.events() if each.request_id == request_id]

    wait_until(
        lambda: not ended or any(each.type == "generation_completed" for each in found()),
        seconds=10,
    )
    return found()


def test_a_registered_tool_is_run_and_the_answer_is_one(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    model.script = answers(calling(call("Paris")), completion("It is sunny."))
    answered = served.chat(request(), x_request_id="whole")
    assert answered.status == 200, answered.body
    assert answered.json()["choices"][0]["message"]["content"] == "It is sunny."
    assert answered.headers["x-gateway-attempts"] == "2"
    (asked,) = tool.asked
    assert {name: asked.json()[name] for name in ("name", "arguments", "call_id")} == {
        "name": "get_weather",
        "arguments": {"city": "Paris"},
        "call_id": "call_0",
    }
    first, second = (each.json() for each in model.asked)
    assert first["tools"][0]["function"]["parameters"] == CITY
    assert {"tool_execution", "max_tool_rounds"}.isdisjoint(first)
    assert "sunny in Paris" in second["messages"][-1]["content"]
    row = served.usage_row("whole")
    assert (row["tokens_input"], row["tokens_output"], row["attempts"]) == (18, 6, 2)
    told = events_of(served, "whole")
    assert [each.type for each in told] == [
        "generation_started",
        "tool_started",
        "tool_completed",
        "generation_completed",
    ]
    assert told[0].fields["has_tools"] is True
    assert told[2].fields["success"] is True
    assert "sunny" not in json.dumps(told)
    assert told[3].fields["tokens_input"] == 18


def test_a_stream_is_one_stream(served: Gateway, model: Upstream, tool: Upstream) -> None:
    model.script = answers(STREAMED_TURN, STREAMED_END)
    answered = served.chat(request(stream=True, stream_options={"include_usage": True}))
    events = answered.body.decode().removesuffix("\n\n").split("\n\n")
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    assert text == "Let me see.\n\nIt is sunny."
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
    assert [reason for reason in reasons if reason] == ["stop"]
    assert chunks[-1]["usage"]["total_tokens"] == 46


def test_parallel_calls_meet_at_the_tool(served: Gateway, model: Upstream, tool: Upstream) -> None:
    both = asyncio.Event()

    async def meet(asked: Asked, peer: Peer) -> None:
        if len(tool.asked) == 2:
            both.set()
        await both.wait()
        await sunny(asked, peer)

    tool.script = meet
    model.script = answers(calling(call("Paris"), call("Rome", 1)), completion("Sunny."))
    assert served.chat(request()).status == 200
    results = [each["content"] for each in model.asked[1].json()["messages"][-2:]]
    assert ["Paris" in results[0], "Rome" in results[1]] == [True, True]


def test_a_tool_that_hangs_costs_its_own_timeout(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    tool.script = silence
    model.script = answers(calling(call("Paris")), completion("No idea."))
    started = time.monotonic()
    answered = served.chat(request(), x_request_id="hung")
    assert 0.9 < time.monotonic() - started < 5
    assert answered.json()["choices"][0]["message"]["content"] == "No idea."
    ended = events_of(served, "hung")[2]
    assert (ended.fields["success"], ended.fields["error"]) == (False, "timeout")


def test_a_tool_that_fails_is_read_by_the_model(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    async def broken(asked: Asked, peer: Peer) -> None:
        peer.answer(500, b'{"why": "no"}')

    tool.script = broken
    model.script = answers(calling(call("Paris")), completion("No idea."))
    assert served.chat(request()).status == 200
    assert model.asked[1].json()["messages"][-1]["content"]


def test_arguments_that_do_not_fit_are_not_sent(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    wrong = {"name": "get_weather", "arguments": '{"town": "Paris"}'}
    model.script = answers(
        calling({"id": "c", "type": "function", "function": wrong}), completion("Sorry.")
    )
    assert served.chat(request()).status == 200
    assert tool.asked == []
    assert "city" in model.asked[1].json()["messages"][-1]["content"]


def test_without_the_field_the_call_is_the_callers(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    model.script = answers(calling(call("Paris")))
    for execution in ({"tool_execution": "client"}, {"tool_execution": None}):
        answered = served.chat(request(**execution))
        assert answered.json()["choices"][0]["message"]["tool_calls"] == [call("Paris")]
    assert tool.asked == []
    assert "tool_execution" not in model.asked[0].json()


def test_the_callers_own_tools_end_the_loop(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    calls = [call("x", 0, "open_door"), call("x", 0, "ask_user")]
    for each in calls:
        model.script = answers(calling(each))
        answered = served.chat(request(tools=["get_weather", "ask_user", OWN]))
        assert answered.json()["choices"][0]["message"]["tool_calls"] == [each]
    assert tool.asked == []


def test_the_field_is_harmless_where_no_tool_is_registered(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    model.script = answers(completion("Hello."))
    for tools in ([OWN], None):
        answered = served.chat(request(tools=tools))
        assert answered.json()["choices"][0]["message"]["content"] == "Hello."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_execution": "gateway"}, "tool_execution"),
        ({"max_tool_rounds": 0}, "max_tool_rounds"),
        ({"max_tool_rounds": 33}, "max_tool_rounds"),
        ({"n": 2}, "n"),
    ],
)
def test_what_the_fields_do_not_take_is_refused(
    served: Gateway, model: Upstream, tool: Upstream, fields: dict[str, Any], param: str
) -> None:
    answered = served.chat(request(**fields))
    assert (answered.status, answered.json()["error"]["param"]) == (400, param)
    assert model.asked == []


def test_a_messages_request_has_its_tools_run(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    asked = request(max_tokens=100)
    model.script = answers(calling(call("Paris"), says="Let me see."), completion("It is sunny."))
    answered = served.post("/v1/messages", asked)
    assert answered.status == 200, answered.body
    message = answered.json()
    assert [block["type"] for block in message["content"]] == ["text"]
    assert message["content"][0]["text"] == "Let me see.\n\nIt is sunny."
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["input_tokens"] == 18
    model.script = answers(STREAMED_TURN, STREAMED_END)
    streamed = served.post("/v1/messages", {**asked, "stream": True}).body.decode()
    assert streamed.count("event: message_start") == streamed.count("event: message_stop") == 1
    assert "tool_use" not in streamed
    assert len(tool.asked) == 2


def test_an_ollama_chat_has_its_tools_run(served: Gateway, model: Upstream, tool: Upstream) -> None:
    model.script = answers(calling(call("Paris")), completion("It is sunny."))
    answered = served.post("/api/chat", request(stream=False))
    assert answered.json()["message"]["content"] == "It is sunny."
    assert answered.json()["prompt_eval_count"] == 18
    model.script = answers(STREAMED_TURN, STREAMED_END)
    lines = served.post("/api/chat", request(stream=True)).body.splitlines()
    told = [json.loads(line) for line in lines]
    text = "".join(each["message"]["content"] for each in told)
    assert text == "Let me see.\n\nIt is sunny."
    assert [each["done"] for each in told].count(True) == 1


def test_a_response_has_its_tools_run(served: Gateway, model: Upstream, tool: Upstream) -> None:
    asked = request(input="How is it in Paris?")
    del asked["messages"]
    model.script = answers(calling(call("Paris")), completion("It is sunny."))
    answered = served.post("/v1/responses", asked)
    assert answered.status == 200, answered.body
    response = answered.json()
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["output"][0]["content"][0]["text"] == "It is sunny."
    assert response["usage"]["input_tokens"] == 18
    model.script = answers(STREAMED_TURN, STREAMED_END)
    streamed = served.post("/v1/responses", {**asked, "stream": True}).body.decode()
    assert streamed.count("event: response.completed") == 1
    assert "function_call" not in streamed
    ended = json.loads(streamed.rstrip().rpartition("data: ")[2])["response"]
    assert ended["output"][-1]["content"][0]["text"] == "Let me see.\n\nIt is sunny."
    assert ended["usage"]["total_tokens"] == 46


def test_a_provider_with_responses_of_its_own_is_asked_for_chats(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    """The gateway goes on from the answers itself."""
    asked = request(model="native/gpt-4o-mini", input="How is it in Paris?")
    del asked["messages"]
    model.script = answers(calling(call("Paris")), completion("It is sunny."))
    answered = served.post("/v1/responses", asked)
    assert answered.json()["output"][0]["content"][0]["text"] == "It is sunny."
    assert {each.path for each in model.asked} == {"/v1/chat/completions"}


def test_a_messages_request_to_anthropic_has_its_tools_run(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    model.script = answers(
        claude.message(claude.tool_use("toolu_1", "get_weather", city="Paris"), stop="tool_use"),
        claude.message(claude.text("It is sunny.")),
    )
    asked = request(model="claude/claude-sonnet-4-5", max_tokens=100)
    answered = served.post("/v1/messages", asked)
    assert answered.json()["content"] == [claude.text("It is sunny.")]
    first, second = (each.json() for each in model.asked)
    assert {"tool_execution", "max_tool_rounds"}.isdisjoint(first)
    assert first["tools"][0]["input_schema"] == CITY
    (result,) = second["messages"][-1]["content"]
    assert (result["type"], result["tool_use_id"]) == ("tool_result", "toolu_1")


def test_a_tool_of_an_mcp_server_is_run(served: Gateway, model: Upstream, tool: Upstream) -> None:
    added = {"name": "add", "arguments": '{"a": 2, "b": 3}'}
    model.script = answers(
        calling({"id": "c", "type": "function", "function": added}), completion("Five.")
    )
    with mcp_process() as server:
        registration = {"name": "lab", "kind": "mcp", "url": server.url}
        operator = f"Bearer {OPERATOR}"
        registered = served.post("/v1/tools/register", registration, authorization=operator)
        assert registered.status == 201, registered.body
        own = {"authorization": f"Bearer {KEY}"}
        wait_until(
            lambda: served.call("GET", "/v1/tools/add", headers=own).status == 200, seconds=10
        )
        answered = served.chat(request(tools=["add"]))
        served.call("DELETE", "/v1/tools/lab", headers={"authorization": operator})
    assert answered.json()["choices"][0]["message"]["content"] == "Five."
    assert model.asked[1].json()["messages"][-1]["content"] == "5"


def test_a_caller_who_leaves_takes_the_tool_along(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    for number, stream in enumerate((True, False)):
        tool.script, tool.asked = silence, []
        model.script = answers(STREAMED_TURN if stream else calling(call("Paris")))
        caller = _send(served, request(stream=stream), f"left-{number}")
        wait_until(lambda: len(tool.asked) == 1, seconds=5)
        caller.close()
        wait_until(lambda: len(tool.left) == 1, seconds=0.9)
        told = events_of(served, f"left-{number}")
        assert told[-1].fields["status"] == "aborted"
        assert told[-1].fields["tokens_input"] == 9
        (completed,) = (each for each in told if each.type == "tool_completed")
        assert completed.fields["error"] == "cancelled"


def test_a_caller_who_leaves_a_later_round_takes_the_model_along(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    first = answers(calling(call("Paris")))

    async def then_silence(asked: Asked, peer: Peer) -> None:
        await (first if len(model.asked) == 1 else silence)(asked, peer)

    model.script = then_silence
    caller = _send(served, request(), "left-later")
    wait_until(lambda: len(model.asked) == 2, seconds=5)
    caller.close()
    wait_until(lambda: len(model.left) == 1, seconds=0.9)
    ended = events_of(served, "left-later")[-1]
    assert (ended.fields["status"], ended.fields["attempts"]) == ("aborted", 2)
    assert ended.fields["tokens_input"] > 9


def test_a_worker_killed_in_the_middle_bills_once(
    served: Gateway, model: Upstream, tool: Upstream
) -> None:
    tool.script = silence
    model.script = answers(calling(call("Paris")))
    caller = _send(served, request(), "killed")
    wait_until(lambda: len(tool.asked) == 1, seconds=5)
    served.kill()
    caller.close()
    served.start()
    told = events_of(served, "killed")
    assert [each.type for each in told] == [
        "generation_started",
        "tool_started",
        "generation_completed",
        "error",
    ]
    assert told[2].fields["status"] == "interrupted"
    (row,) = (row for row in served.rows() if row.request_id == "killed")
    assert (row.tokens_input, row.tokens_output, row.attempts) == (9, 3, 1)


def test_sums_over_events_are_the_ledgers(served: Gateway, model: Upstream, tool: Upstream) -> None:
    rows = served.rows()
    told = [each for each in served.events() if each.type == "generation_completed"]
    assert len(told) == len(rows) > 0
    for name in ("tokens_input", "tokens_output", "attempts"):
        assert sum(each.fields[name] for each in told) == sum(getattr(row, name) for row in rows)


def _send(gateway: Gateway, body: dict[str, Any], request_id: str) -> socket.socket:
    raw = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        f"x-request-id: {request_id}\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    caller = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    caller.sendall(head.encode() + raw)
    return caller
