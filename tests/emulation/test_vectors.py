"""Recorded model outputs, read whole and cut at every place."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from providers.emulation.reading.answer import Dialect
from tests.emulation.reading import ALL_DIALECTS, Read, read

RECORDED = Path(__file__).resolve().parents[3] / "shared/tool-parse/vectors.jsonl"
VECTORS: list[dict[str, Any]] = (
    [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    if RECORDED.exists()
    else []
)
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not VECTORS, reason="the recorded model outputs are not here"),
]
_MARKS = {
    "mlx:function_gemma": ("<start_function_call>", "<end_function_call>"),
    "mlx:gemma4": ("<|tool_call>", "<tool_call|>"),
    "mlx:longcat": ("<longcat_tool_call>", "</longcat_tool_call>"),
    "mlx:minimax_m2": ("<minimax:tool_call>", "</minimax:tool_call>"),
}
"""Where a vector is only what stands between the marks."""
_TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_QUOTED_NAMES = re.compile(
    r'"name": ?"([^"]+)"|name="([^"]+)">|function<｜tool▁sep｜>(\w+)|call:([\w.-]+)'
)

EXCEPTIONS = {
    "vllm-deepseekv31-02e6a38d": "the text after the calls is kept: nothing is dropped in silence",
    "vllm-step3p5-8c7bf3b9": "the text between the calls is kept: nothing is dropped in silence",
    "vllm-gemma4-3e743f2f": "a call cut off in the middle of a value is not run with half of it",
    "vllm-gemma4-492fb51f": "`bad no brace` is no name that a tool can have on this wire",
    "vllm-glm47_moe-2062876b": "the name called has a namespace in front and is not the one "
    "offered: only an offered name is a call",
    "vllm-hermes-3fa52c90": "two calls stand there and both are read; the vector lists the first",
    "vllm-hermes-3123ad86": "only the outermost brace is missing: name and arguments are whole",
    "vllm-minicpm5xml-1ff6e581": "a parameter `properties` is passed on as it is called, and its "
    "object not put in the arguments' place",
    "vllm-minicpm5xml-657540f4": "a parameter the schema does not know is the tool's to refuse, as "
    "with native calls",
    "vllm-minicpm5xml-81f9e273": "the call of one tool is not turned into that of another",
}
"""Where we read otherwise than the source decided, and why."""


def text_of(vector: dict[str, Any]) -> str:
    marks = ("", "")
    if vector["parser"].startswith("mlx:"):
        marks = _MARKS.get(vector["parser"], ("<tool_call>", "</tool_call>"))
    begin, end = marks
    return f"{begin}{vector['input']}{end}"


def dialect_of(vector: dict[str, Any]) -> Dialect:
    if "pythonic" in vector["parser"]:
        return ALL_DIALECTS[2]
    return ALL_DIALECTS[vector["parser"] == "llama3_json"]


def offered_in(vector: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tools of a vector, where the source tells them; else those it expects to be called, with
    parameters of the types it expects, and those whose names stand where a call has its name."""
    offered: dict[str, dict[str, Any]] = {
        tool["function"]["name"]: tool["function"]["parameters"]
        for tool in vector.get("tools") or ()
    }
    for call in vector["expected_calls"]:
        arguments = call.get("arguments") or {}
        types = {name: {"type": _TYPES[type(value)]} for name, value in arguments.items()}
        if "name" in call:
            offered.setdefault(call["name"], {"type": "object", "properties": types})
    for names in _QUOTED_NAMES.findall(vector["input"]):
        for name in filter(None, names):
            offered.setdefault(name, {})
    return offered


def is_right(vector: dict[str, Any], told: Read) -> bool:
    kind, expected = vector["kind"], vector["expected_calls"]
    content = vector["expected_content"]
    if content is not None and told.content.strip() != content.strip():
        return False
    if kind == "malformed-must-not-raise":
        return True
    if "call-count" in kind:
        return len(told.calls) == 1
    if len(told.calls) != len(expected):
        return False
    return all(
        wanted.get("name", name) == name and wanted.get("arguments", value) == value
        for (name, value), wanted in zip(told.values, expected, strict=True)
    )


def test_every_recorded_output_is_read_right_or_argued() -> None:
    right: Counter[str] = Counter()
    wrong = set()
    for vector in VECTORS:
        if is_right(vector, read(text_of(vector), offered_in(vector), dialect_of(vector))):
            right[vector["parser"]] += 1
        else:
            wrong.add(vector["id"])
    asked = Counter(vector["parser"] for vector in VECTORS)
    for parser, count in sorted(asked.items()):
        print(f"{parser:20} {right[parser]:3} of {count}")
    print(f"{sum(right.values())} of {len(VECTORS)}, argued otherwise: {len(EXCEPTIONS)}")
    assert wrong == EXCEPTIONS.keys()


def test_where_an_output_is_cut_makes_no_difference() -> None:
    cuts = 0
    for vector in VECTORS:
        text, offered, dialect = text_of(vector), offered_in(vector), dialect_of(vector)
        whole = read(text, offered, dialect)
        for at in range(1, len(text)):
            cuts += 1
            told = read([text[:at], text[at:]], offered, dialect)
            assert_same(vector, told, whole)
        assert_same(vector, read(text, offered, dialect), read(list(text), offered, dialect))
    print(f"{cuts} cuts in {len(VECTORS)} outputs")


def assert_same(vector: dict[str, Any], told: Read, whole: Read) -> None:
    """What was shown of a call before it turned out malformed cannot be taken back; all else is
    the same."""
    if whole.faults:
        assert told.faults == whole.faults, vector["id"]
    else:
        assert told == whole, vector["id"]
