"""Recorded conversations with Ollama servers, held again through the gateway: on both of its wires,
passed through and translated."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import KEY, Answered, Gateway, running_gateway, wait_until
from tests.recordings import every, needs, recorded
from tests.upstream import Upstream, scripted_upstream, silence
from tests.wire.test_openai_replay import events, playing, shown

INTERACTIONS = recorded("ollama")
NATIVE = [each for each in INTERACTIONS if each["endpoint"] in ("/api/chat", "/api/generate")]
CHATS = [each for each in NATIVE if each["endpoint"] == "/api/chat"]
OPENAI = [each for each in INTERACTIONS if each["endpoint"] == "/v1/chat/completions"]
TAGS = [each for each in INTERACTIONS if each["endpoint"] == "/api/tags"]
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]


def body_of(response: dict[str, Any]) -> list[Any]:
    """The JSON values of an answer: the lines of a stream, or the one."""
    if response["body_text"] is None:
        return [response["body"]]
    return [json.loads(line) for line in response["body_text"].split("\n") if line.strip()]


def lines(answered: Answered) -> list[Any]:
    return [json.loads(line) for line in answered.body.decode().split("\n") if line]


def said(told: list[Any]) -> dict[str, Any]:
    """What a list of Ollama's lines comes to."""
    messages = [each.get("message") or {} for each in told]
    last = told[-1]
    return {
        "text": "".join(
            message.get("content") or each.get("response") or ""
            for message, each in zip(messages, told, strict=True)
        ),
        "thinking": "".join(message.get("thinking") or "" for message in messages),
        "calls": [
            (call["function"]["name"], call["function"]["arguments"])
            for message in messages
            for call in message.get("tool_calls") or ()
        ],
        "end": (last.get("done"), last.get("done_reason")),
        "counts": (last.get("prompt_eval_count"), last.get("eval_count")),
    }


def completed(answered: Answered) -> dict[str, Any]:
    """The same of an answer on OpenAI's wire, whole or streamed."""
    if answered.headers["content-type"].startswith("text/event-stream"):
        datas = events(answered.body.decode())
        assert datas[-1] == "[DONE]"
        return said_by_chunks([json.loads(data) for data in datas[:-1]])
    return said_by_completion(answered.json())


def said_by_completion(body: dict[str, Any]) -> dict[str, Any]:
    (choice,) = body["choices"]
    message, usage = choice["message"], body.get("usage") or {}
    return {
        "text": message.get("content") or "",
        "thinking": message.get("reasoning_content") or message.get("reasoning") or "",
        "calls": [call_of(call) for call in message.get("tool_calls") or ()],
        "finish": choice["finish_reason"],
        "counts": (usage.get("prompt_tokens"), usage.get("completion_tokens")),
    }


def said_by_chunks(chunks: list[Any]) -> dict[str, Any]:
    deltas = [each["choices"][0]["delta"] for each in chunks if each["choices"]]
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls") or ():
            known = calls.setdefault(call["index"], ["", ""])
            known[0] += call["function"].get("name") or ""
            known[1] += call["function"].get("arguments") or ""
    ends = [each["choices"][0].get("finish_reason") for each in chunks if each["choices"]]
    usages = [each["usage"] for each in chunks if each.get("usage")]
    usage = usages[-1] if usages else {}
    return {
        "text": "".join(delta.get("content") or "" for delta in deltas),
        "thinking": "".join(
            delta.get("reasoning_content") or delta.get("reasoning") or "" for delta in deltas
        ),
        "calls": [(name, json.loads(arguments)) for name, arguments in calls.values()],
        "finish": next((end for end in ends if end), None),
        "counts": (usage.get("prompt_tokens"), usage.get("completion_tokens")),
    }


def call_of(call: dict[str, Any]) -> tuple[str, Any]:
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def in_openais_words(native: dict[str, Any]) -> dict[str, Any]:
    """A recorded native chat as the same question on OpenAI's wire."""
    messages = [
        {**each, "tool_call_id": each.get("tool_call_id") or "call_x"}
        if each["role"] == "tool"
        else each
        for each in native["messages"]
    ]
    asked = {"model": f"llama/{native['model']}", "messages": messages, "stream": native["stream"]}
    asked["stream_options"] = {"include_usage": True}
    if native.get("tools"):
        asked["tools"] = native["tools"]
    if native.get("format"):
        schema = {"name": "answer", "schema": native["format"]}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return asked


def in_ollamas_words(asked: dict[str, Any]) -> dict[str, Any]:
    """A recorded question on OpenAI's wire as the same in Ollama's."""
    names: dict[str, str] = {}
    native = {"model": f"scripted/{asked['model']}", "stream": bool(asked.get("stream"))}
    native["messages"] = [native_message(each, names) for each in asked["messages"]]
    if asked.get("tools"):
        native["tools"] = asked["tools"]
    return native


def native_message(message: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    content = message.get("content")
    role = "system" if message["role"] == "developer" else message["role"]
    told: dict[str, Any] = {"role": role, "content": content}
    if isinstance(content, list):
        told["content"] = "\n".join(part["text"] for part in content if part["type"] == "text")
        told["images"] = [
            part["image_url"]["url"].partition(",")[2]
            for part in content
            if part["type"] == "image_url"
        ]
    for call in message.get("tool_calls") or ():
        names[call["id"]] = call["function"]["name"]
        function = call["function"]
        arguments = json.loads(function["arguments"])
        entry = {"function": {"name": function["name"], "arguments": arguments}}
        told.setdefault("tool_calls", []).append(entry)
    if role == "tool":
        told["tool_name"] = names.get(message["tool_call_id"])
    return told


# --- Ollama's own wire, passed through ----------------------------------------------------------


@every(NATIVE)
def test_on_the_same_wire_nothing_changes_but_the_model(
    mixed_gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    upstream.script = playing(interaction["response"])
    sent = interaction["request"]["json"]
    request = {**sent, "model": f"llama/{sent['model']}"}
    answered = mixed_gateway.post(interaction["endpoint"], request)
    (asked,) = upstream.asked
    assert asked.path == interaction["endpoint"]
    assert asked.json() == sent
    assert answered.status == 200
    assert "x-gateway-dropped-params" not in answered.headers
    assert lines(answered) == body_of(interaction["response"])


@every(TAGS)
def test_the_listed_models_are_offered_under_the_providers_name(
    tmp_path: Path, spare_database_url: str, interaction: dict[str, Any]
) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    with scripted_upstream(silence) as upstream:
        upstream.listing = playing(interaction["response"])
        base_url = upstream.base_url
        with running_gateway(tmp_path, spare_database_url, base_url, kind="ollama") as gateway:
            told = gateway.call("GET", "/api/tags", headers=headers).json()["models"]
    names = {f"scripted/{each['name']}" for each in interaction["response"]["body"]["models"]}
    offered = {each["name"] for each in told if each["name"].startswith("scripted/")}
    assert offered - {"scripted/gpt-4o-mini"} == names  # that one is the route's


# --- Ollama upstream, OpenAI caller -------------------------------------------------------------


@every(CHATS)
def test_a_native_answer_keeps_everything_on_openais_wire(
    mixed_gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    upstream.script = playing(interaction["response"])
    answered = mixed_gateway.chat(in_openais_words(interaction["request"]["json"]))
    assert answered.status == 200, answered.body
    was, got = said(body_of(interaction["response"])), completed(answered)
    for name in ("text", "thinking", "calls", "counts"):
        assert got[name] == was[name], name
    assert was["end"][0] is True
    assert got["finish"] == ("tool_calls" if was["calls"] else was["end"][1])


@every(CHATS)
def test_a_native_question_comes_back_to_itself_through_openais_words(
    mixed_gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    upstream.script = playing(interaction["response"])
    sent = interaction["request"]["json"]
    mixed_gateway.chat(in_openais_words(sent))
    (asked,) = upstream.asked
    got = asked.json()
    assert asked.path == "/api/chat"
    assert (got["model"], got["stream"]) == (sent["model"], sent["stream"])
    assert got.get("format") == (sent.get("format") or None)
    assert [(each["role"], each["content"]) for each in got["messages"]] == [
        (each["role"], each["content"]) for each in sent["messages"]
    ]
    assert [each["function"] for each in got.get("tools", ())] == [
        each["function"] for each in sent.get("tools", ())
    ]


# --- Ollama's OpenAI endpoint -------------------------------------------------------------------


@every(OPENAI)
def test_its_openai_endpoint_is_a_compatible_provider(
    mixed_gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    response, sent = interaction["response"], interaction["request"]["json"]
    upstream.script = playing(response)
    answered = mixed_gateway.chat({**sent, "model": f"scripted/{sent['model']}"})
    assert answered.status == response["status"]
    if response["status"] != 200:
        assert answered.json()["error"]["message"] == response["body"]["error"]["message"]
    elif response["body_text"] is None:
        assert answered.json() == response["body"]
    else:
        datas = events(answered.body.decode())
        recorded = [json.loads(d) for d in events(response["body_text"]) if d != "[DONE]"]
        assert datas[-1] == "[DONE]"
        assert [json.loads(data) for data in datas[:-1]] == shown(recorded, sent)


@every(OPENAI)
def test_an_openai_answer_keeps_everything_on_ollamas_wire(
    mixed_gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    response = interaction["response"]
    upstream.script = playing(response)
    native = in_ollamas_words(interaction["request"]["json"])
    answered = mixed_gateway.post("/api/chat", native)
    assert answered.status == response["status"], answered.body
    if response["status"] != 200:
        assert answered.json() == {"error": response["body"]["error"]["message"]}
        return
    got, was = said(lines(answered)), said_openai(response)
    for name in ("text", "thinking", "calls", "counts"):
        assert got[name] == was[name], name
    assert got["end"] == (True, "length" if was["finish"] == "length" else "stop")


def said_openai(response: dict[str, Any]) -> dict[str, Any]:
    if response["body_text"] is None:
        return said_by_completion(response["body"])
    datas = [data for data in events(response["body_text"]) if data != "[DONE]"]
    return said_by_chunks([json.loads(data) for data in datas])


# --- the ledger ---------------------------------------------------------------------------------


def test_the_ledger_has_the_recorded_counts(
    mixed_gateway: Gateway, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, tuple[int | None, int, bool]] = {}
    for interaction in NATIVE:
        sent = interaction["request"]["json"]
        last = body_of(interaction["response"])[-1]
        counts = (
            last.get("prompt_eval_count"),
            last["eval_count"],
            "prompt_eval_count" not in last,
        )
        upstream.script = playing(interaction["response"])
        for way in ("same", "translated"):
            request_id = f"{way}-{interaction['id']}"
            if way == "same":
                request = {**sent, "model": f"llama/{sent['model']}"}
                mixed_gateway.post(interaction["endpoint"], request, x_request_id=request_id)
            elif interaction["endpoint"] == "/api/chat":
                mixed_gateway.chat(in_openais_words(sent), x_request_id=request_id)
            else:
                continue
            told[request_id] = counts
    rows: dict[str, Any] = {}

    def recorded_all() -> bool:
        rows.update({row.request_id: row for row in mixed_gateway.rows()})
        return told.keys() <= rows.keys()

    wait_until(recorded_all, seconds=20)
    for request_id, (prompt, output, estimated) in told.items():
        row = rows[request_id]
        assert (row.status, row.tokens_output, bool(row.estimated)) == (
            "success",
            output,
            estimated,
        ), request_id
        assert row.tokens_input == prompt or estimated, request_id
    with capsys.disabled():
        print(f"\n{summary()}; {len(told)} ledger rows compared")


def summary() -> str:
    endpoints = Counter(each["endpoint"] for each in INTERACTIONS)
    return (
        f"{len(INTERACTIONS)} recorded interactions with Ollama {dict(endpoints)}: "
        f"{len(NATIVE)} passed through, {len(CHATS)} translated for OpenAI callers "
        f"(left out: {len(NATIVE) - len(CHATS)} of /api/generate, which no OpenAI caller reaches), "
        f"{len(OPENAI)} of its OpenAI endpoint passed through and told in Ollama's words, "
        f"{len(TAGS)} listing"
    )
