"""Recorded Messages requests, put into the OpenAI shape: nothing that was said is lost."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from gateway_api.anthropic.estimate import estimate_tokens
from gateway_api.anthropic.translation import Translated, parse_messages, parse_prompt
from tests.recordings import needs, recorded

INTERACTIONS = recorded("anthropic")
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]


def translated(interaction: dict[str, Any]) -> Translated:
    parse = parse_prompt if interaction["endpoint"].endswith("count_tokens") else parse_messages
    return parse(json.dumps(interaction["request"]["json"]).encode(), {})


Said = list[tuple[Any, ...]]


def said_on_anthropics_wire(body: dict[str, Any]) -> Said:
    """Everything a Messages request says, one entry each, in its order within the kinds."""
    said: Said = [("system", text) for text in texts(body.get("system") or [])]
    for message in body["messages"]:
        blocks = message["content"]
        if isinstance(blocks, str):
            blocks = [{"type": "text", "text": blocks}]
        for block in blocks:
            said += entries(message["role"], block)
    return said


def entries(role: str, block: dict[str, Any]) -> Said:
    kind = block["type"]
    if kind == "text":
        return [(role, block["text"])] if block["text"] else []
    if kind in ("image", "document"):
        return [("content", content_of(block["source"]))]
    if kind == "tool_use":
        return [("call", block["id"], block["name"], json.dumps(block["input"], sort_keys=True))]
    if kind == "tool_result":
        content = block.get("content") or []
        return [
            *(("result", block["tool_use_id"], text) for text in texts(content)),
            *(("content", content_of(part["source"])) for part in with_sources(content)),
        ]
    if kind == "thinking":
        signed = [("sealed", block["thinking"], block["signature"])] if block["signature"] else []
        return [*signed, *([("thought", block["thinking"])] if block["thinking"] else [])]
    raise AssertionError(f"a block of type {kind} should not have been translated")


def with_sources(content: Any) -> list[dict[str, Any]]:
    parts = content if isinstance(content, list) else []
    return [part for part in parts if part["type"] in ("image", "document")]


def texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    told = []
    for part in content:
        if part["type"] == "text" and part["text"]:
            told.append(part["text"])
        elif part["type"] == "tool_reference":
            told.append(f"The tool {part['tool_name']} is available.")
    return told


def content_of(source: dict[str, Any]) -> Any:
    if source["type"] == "base64":
        return f"data:{source['media_type']};base64,{source['data']}"
    return source[source["type"]]


def said_in_openais_shape(body: dict[str, Any]) -> Said:
    said: Said = []
    for message in body["messages"]:
        content = message["content"] or []
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "image_url":
                said.append(("content", part["image_url"]["url"]))
            elif part["type"] == "file":
                said.append(("content", part["file"]["file_data"]))
            elif message["role"] == "tool" and part["text"]:
                said.append(("result", message["tool_call_id"], part["text"]))
            elif part["text"]:
                said.append((message["role"], part["text"]))
        if message.get("reasoning_content"):
            said.append(("thought", message["reasoning_content"]))
        for block in message.get("thinking_blocks") or ():
            said.append(("sealed", block["thinking"], block["signature"]))
        for call in message.get("tool_calls") or ():
            arguments = json.dumps(json.loads(call["function"]["arguments"]), sort_keys=True)
            said.append(("call", call["id"], call["function"]["name"], arguments))
    return said


OURS = "The rest of "
"""How the lines begin that tie a tool's images to its result."""


def by_kind(said: Said) -> dict[str, Said]:
    found: dict[str, Said] = {}
    for entry in said:
        if not str(entry[-1]).startswith(OURS):
            found.setdefault(entry[0], []).append(entry)
    return found


def test_every_recorded_request_keeps_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    compared = 0
    left_out: Counter[str] = Counter()
    for interaction in INTERACTIONS:
        body = interaction["request"]["json"]
        request = translated(interaction).request
        assert request.native == body
        if request.native_only is not None:
            reason = request.native_only.message.partition(" can only")[0].partition(": ")[2]
            left_out[f"for Anthropic alone: {reason}"] += 1
            continue
        got, was = said_in_openais_shape(request.body), said_on_anthropics_wire(body)
        assert by_kind(got) == by_kind(was), interaction["id"]
        compared += 1
    with capsys.disabled():
        print(
            f"\n{len(INTERACTIONS)} recorded Messages requests parsed, {compared} compared with "
            f"their translation, left out: {dict(left_out) or 'none'}"
        )
    assert compared > len(INTERACTIONS) // 2


def test_every_recorded_tool_and_schema_comes_through() -> None:
    for interaction in INTERACTIONS:
        body, request = interaction["request"]["json"], translated(interaction).request
        if request.native_only is not None:
            continue
        assert [
            (tool["function"]["name"], tool["function"]["parameters"])
            for tool in request.body.get("tools") or ()
        ] == [(tool["name"], tool["input_schema"]) for tool in body.get("tools") or ()]
        form = (body.get("output_config") or {}).get("format") or body.get("output_format")
        if form:
            assert request.body["response_format"]["json_schema"]["schema"] == form["schema"]


def test_results_follow_their_calls_at_once() -> None:
    seen = 0
    for interaction in INTERACTIONS:
        messages = translated(interaction).request.body["messages"]
        for at, message in enumerate(messages):
            if message["role"] == "tool":
                seen += 1
                assert messages[at - 1]["role"] in ("tool", "assistant"), interaction["id"]
    assert seen > 20


def test_marks_for_the_cache_stay_on_what_they_mark() -> None:
    for interaction in INTERACTIONS:
        request = translated(interaction).request
        if request.native_only is None:
            body = interaction["request"]["json"]
            body = {name: value for name, value in body.items() if name != "cache_control"}
            assert marks(request.body) == marks(body), interaction["id"]


def marks(value: Any) -> int:
    if isinstance(value, dict):
        return bool(value.get("cache_control")) + sum(map(marks, value.values()))
    return sum(map(marks, value)) if isinstance(value, list) else 0


def test_the_estimate_of_text_is_near_what_anthropic_counted() -> None:
    """Anthropic counts some 500 tokens of its own for tools, and 30 for thinking: those are what
    its models are told, and no other's."""
    compared = 0
    for interaction in INTERACTIONS:
        body, answer = interaction["request"]["json"], interaction["response"]["body"] or {}
        if not interaction["endpoint"].endswith("count_tokens") or "input_tokens" not in answer:
            continue
        if not body.get("tools") and not body.get("thinking"):
            compared += 1
            estimated = estimate_tokens(translated(interaction).request.body)
            assert 0.7 < estimated / answer["input_tokens"] < 1.4, interaction["id"]
    assert compared >= 5
