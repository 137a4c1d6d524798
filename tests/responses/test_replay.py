"""Recorded conversations, held again through `/v1/responses`: natively with the Responses API of
five providers, and translated from chat completions that fifteen gave."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.gateway import Answered, Gateway, wait_until
from tests.recordings import needs, recorded
from tests.responses.calls import call, check_numbers, read_events
from tests.upstream import Upstream
from tests.wire.test_openai_replay import events, playing

NATIVE = recorded(endpoint="/v1/responses")
CHATS = [
    each for each in recorded(endpoint="/v1/chat/completions") if each["response"]["status"] == 200
]
pytestmark = [
    pytest.mark.once,
    needs(NATIVE),
]


# --- native -------------------------------------------------------------------------------------


def through(
    gateway: Gateway, upstream: Upstream, interaction: dict[str, Any], request_id: str
) -> tuple[Answered, Any]:
    """The answer to a recorded request, and what its upstream was asked."""
    sent = interaction["request"]["json"]
    model = f"native/{sent.get('model') or 'none-named'}"
    upstream.script, upstream.asked = playing(interaction["response"]), []
    answered = call(gateway, "POST", "", {**sent, "model": model}, x_request_id=request_id)
    assert len(upstream.asked) == 1, answered.body
    return answered, upstream.asked[0].json()


def typed(raw: str) -> list[Any]:
    """The recorded events, with the numbers that some providers leave out."""
    found = [json.loads(data) for data in recorded_data(raw) if data != "[DONE]"]
    for number, event in enumerate(found):
        event.setdefault("sequence_number", number)
    return found


def recorded_data(raw: str) -> Iterator[str]:
    for block in raw.replace("\r\n", "\n").split("\n\n"):
        lines = [line.removeprefix("data:") for line in block.split("\n") if line[:5] == "data:"]
        if lines:
            yield "\n".join(lines).strip()


def recorded_usage(interaction: dict[str, Any]) -> dict[str, Any] | None:
    told = interaction["response"]
    body = told["body"] if told["body_text"] is None else typed(told["body_text"])[-1]["response"]
    usage: dict[str, Any] | None = body.get("usage")
    return usage


def same_error(answered: Answered, interaction: dict[str, Any]) -> None:
    told, was = answered.json()["error"], interaction["response"]["body"]["error"]
    if interaction["response"]["status"] == 401:
        assert (answered.status, told["code"]) == (502, "upstream_credentials")
        return
    assert answered.status == interaction["response"]["status"]
    if isinstance(was, str):
        assert told["message"] == was
        return
    for name in ("message", "type", "param", "code"):
        assert told[name] == was[name], name


def test_every_recorded_response_passes_through_as_it_was(
    served: Gateway, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    ledger: dict[str, tuple[int, int]] = {}
    for number, interaction in enumerate(NATIVE):
        sent, told = interaction["request"]["json"], interaction["response"]
        answered, asked = through(served, upstream, interaction, f"replay-{number}")
        assert asked == {**sent, "model": sent.get("model") or "none-named"}, interaction["id"]
        if told["status"] != 200:
            same_error(answered, interaction)
            kinds["errors"] += 1
            continue
        if usage := recorded_usage(interaction):
            ledger[f"replay-{number}"] = (usage["input_tokens"], usage["output_tokens"])
        else:
            left_out["usage in the ledger (none recorded)"] += 1
        if told["body_text"] is None:
            assert answered.json() == told["body"], interaction["id"]
            kinds["whole"] += 1
        else:
            # As they were: some providers' Response objects lack what the SDK's model asks for.
            passed = read_events(answered.body, known=False)
            assert passed == typed(told["body_text"]), interaction["id"]
            kinds["streamed"] += 1
    wait_until(lambda: ledger.keys() <= {row.request_id for row in served.rows()}, seconds=20)
    rows = {
        row.request_id: (row.tokens_input, row.tokens_output)
        for row in served.rows()
        if row.request_id in ledger
    }
    assert rows == ledger
    providers = Counter(each["provider"] for each in NATIVE)
    with capsys.disabled():
        print(
            f"\n{len(NATIVE)} recorded /v1/responses replayed natively ({dict(providers)}): "
            f"{dict(kinds)} identical, {len(ledger)} in the ledger with their usage; "
            f"not compared: {dict(left_out) or 'none'}"
        )


# --- translated ---------------------------------------------------------------------------------


def is_failure(told: dict[str, Any]) -> bool:
    if told["body_text"] is not None:
        return '"error":' in told["body_text"]
    return "choices" not in told["body"] or bool(told["body"].get("error"))


def folded(interaction: dict[str, Any]) -> tuple[dict[str, Any], str | None, dict[str, Any] | None]:
    """The first choice's message, the finish reason and the usage of a recorded chat answer."""
    told = interaction["response"]
    if told["body_text"] is None:
        choice = told["body"]["choices"][0]
        return choice["message"], choice.get("finish_reason"), told["body"].get("usage")
    message: dict[str, Any] = {"content": "", "refusal": "", "reasoning": "", "tool_calls": {}}
    finish = usage = None
    for data in events(told["body_text"]):
        if data == "[DONE]":
            break
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            finish = choice.get("finish_reason") or finish
            add_delta(message, choice["delta"])
    message["tool_calls"] = [message["tool_calls"][at] for at in sorted(message["tool_calls"])]
    return message, finish, usage


def add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("content", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] += delta[name]
        elif isinstance(delta.get(name), list):
            message[name] += text_of(delta[name])
    message["reasoning"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
    for at, each in enumerate(delta.get("tool_calls") or ()):
        known = message["tool_calls"].setdefault(
            each.get("index", at), {"id": "", "function": {"name": "", "arguments": ""}}
        )
        known["id"] = known["id"] or each.get("id") or ""
        function = each.get("function") or {}
        known["function"]["name"] = known["function"]["name"] or function.get("name") or ""
        known["function"]["arguments"] += function.get("arguments") or ""


def text_of(parts: list[Any]) -> str:
    return "".join(part.get("text", "") for part in parts if part.get("type") == "text")


def said(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    calls = message.get("tool_calls") or ()
    return {
        "text": text_of(content) if isinstance(content, list) else content or "",
        "refusal": message.get("refusal") or "",
        "calls": [
            (each["id"], each["function"]["name"], each["function"]["arguments"]) for each in calls
        ],
    }


def said_by(answer: Response) -> dict[str, Any]:
    parts = [part for item in answer.output if item.type == "message" for part in item.content]
    return {
        "text": "".join(part.text for part in parts if part.type == "output_text"),
        "refusal": "".join(part.refusal for part in parts if part.type == "refusal"),
        "calls": [
            (each.call_id, each.name, each.arguments)
            for each in answer.output
            if each.type == "function_call"
        ],
    }


STATUS = {"length": "incomplete", "content_filter": "incomplete"}


def ask(client: openai.OpenAI, *, stream: bool) -> Response:
    """The response as the SDK has it: parsed, or added up by its stream helper."""
    fields: Any = {"model": "scripted/any", "input": "x", "store": False}
    if not stream:
        whole: Response = client.responses.create(**fields)
        return whole
    last: Any = None
    with client.responses.stream(**fields) as typed_stream:
        for number, event in enumerate(typed_stream):
            assert event.sequence_number == number
            last = event
    assert last.type in ("response.completed", "response.incomplete"), last
    found: Response = last.response
    return found


def test_every_recorded_chat_answer_is_a_response_that_says_the_same(
    client: openai.OpenAI, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    compared: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for interaction in CHATS:
        told = interaction["response"]
        if is_failure(told):
            left_out["a failure under the status 200"] += 1
            continue
        upstream.script = playing(told)
        answer = ask(client, stream=told["body_text"] is not None)
        message, finish, usage = folded(interaction)
        assert said_by(answer) == said(message), interaction["id"]
        assert answer.status == STATUS.get(str(finish), "completed"), interaction["id"]
        if usage:
            assert answer.usage is not None
            got = (answer.usage.input_tokens, answer.usage.output_tokens)
            assert got == (usage["prompt_tokens"], usage.get("completion_tokens") or 0)
            compared["usage"] += 1
        else:
            assert answer.usage is None
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if reasoning:
            thought = "".join(
                part.text
                for item in answer.output
                if item.type == "reasoning"
                for part in item.summary
            )
            assert thought == reasoning, interaction["id"]
            compared["reasoning"] += 1
        compared["streamed" if told["body_text"] is not None else "whole"] += 1
    with capsys.disabled():
        print(
            f"\n{len(CHATS)} recorded chat answers asked for as responses: {dict(compared)} say "
            f"the same, left out: {dict(left_out) or 'none'}"
        )


def test_a_failure_recorded_under_the_status_200_is_told(
    served: Gateway, upstream: Upstream
) -> None:
    for interaction in [each for each in CHATS if is_failure(each["response"])]:
        upstream.script = playing(interaction["response"])
        streamed = interaction["response"]["body_text"] is not None
        body = {"model": "scripted/m", "input": "x", "stream": streamed}
        answered = call(served, "POST", "", body)
        if answered.status != 200:
            assert answered.json()["error"]["message"]
            continue
        told = read_events(answered.body)
        check_numbers(told)
        assert told[-1]["type"] == "response.failed", interaction["id"]
