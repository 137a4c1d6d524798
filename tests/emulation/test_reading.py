"""How text is read as it comes: what is shown when, what is bounded, what cannot be read."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.emulation.families import family_of
from providers.emulation.reading.answer import AnswerReader, Dialect
from providers.emulation.reading.calls import Arguments, Begun
from providers.emulation.reading.envelopes import READERS
from providers.emulation.writing import Call
from tests.emulation.reading import ALL_DIALECTS, read

pytestmark = pytest.mark.once
MODELS = (
    *("hermes-3-llama-3.1-8b", "qwen3-coder-30b", "glm-4.6", "glm-5", "gemma-4-27b", "gemma-3-4b"),
    *("lfm2-1.2b", "llama-3.1-8b", "llama-3.2-1b", "mistral-small", "deepseek-v3", "gpt-oss-20b"),
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "on": {"type": "boolean"},
        "list": {"type": "array"},
    },
}
OFFERED = {"f": SCHEMA, "g_2": {"type": "object", "properties": {}}}
_TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="<>|[]`｜\u2581", exclude_categories=["Cc"]),
    max_size=12,
)
_ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": _TEXT.map(str.strip),
        "count": st.integers(-(2**31), 2**31),
        "on": st.booleans(),
        "list": st.lists(_TEXT, max_size=3),
    },
)
_CALLS = st.lists(
    st.one_of(st.builds(Call, st.just("f"), _ARGUMENTS), st.just(Call("g_2", {}))),
    min_size=1,
    max_size=3,
)
_WORDS = st.text("ab é.,\n", max_size=20)


@settings(max_examples=150, deadline=None)
@given(
    model=st.sampled_from(MODELS), calls=_CALLS, before=_WORDS, cuts=st.lists(st.integers(1, 400))
)
def test_what_a_family_writes_is_read_back_however_it_is_cut(
    model: str, calls: list[Call], before: str, cuts: list[int]
) -> None:
    family = family_of(model)
    is_bare = family.dialect.python
    text = ("" if is_bare else f"{before}\n") + family.envelope.write_calls(calls)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in zip(places, places[1:], strict=False)]
    told = read(pieces, OFFERED, family.dialect)
    assert told.values == [(call.name, call.arguments) for call in calls]
    assert told.content == ("" if is_bare else before.rstrip()) or not before.strip()
    assert told.faults == []


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            [
                *READERS,
                "</tool_call>",
                "```",
                "```json\n",
                "\n",
                '{"name": "f", ',
                '"arguments": {',
                '"text": "',
                '"',
                "}",
                "}}",
                "f(",
                "text='x')",
                "[",
                "]",
                "f",
                "<think>",
                "</think>",
                "`",
                " so ",
                "\\",
                "<arg_key>",
                "</arg_key>",
                "<parameter=text>",
                "</parameter>",
            ]
        ),
        max_size=14,
    ).map("".join),
    cuts=st.lists(st.integers(1, 300), max_size=8),
    dialect=st.sampled_from(ALL_DIALECTS),
)
def test_garbage_is_read_alike_however_it_is_cut(
    text: str, cuts: list[int], dialect: Dialect
) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in zip(places, places[1:], strict=False)]
    whole, told = read(text, OFFERED, dialect), read(pieces, OFFERED, dialect)
    if whole.faults:
        assert bool(told.faults)
    else:
        assert told == whole
    for _, arguments in whole.calls:
        assert isinstance(json.loads(arguments), dict)
    if not (whole.calls or whole.faults):
        assert whole.content == text


def shown(*pieces: str, dialect: Dialect = ALL_DIALECTS[0]) -> list[list[Any]]:
    """What each piece brings to light: texts, names of calls, and arguments as `{…}`."""
    reader = AnswerReader(OFFERED, dialect)
    told = [reader.feed(piece) for piece in pieces] + [reader.finish()]
    return [[getattr(each, "name", getattr(each, "text", each)) for each in one] for one in told]


def test_text_before_a_call_comes_at_once_and_before_the_call() -> None:
    told = shown(
        "Let me", " look", ' it up.<tool_call>{"name": "f", "arguments": {"count"', ": 1}}"
    )
    assert told == [["Let me"], [" look"], [" it up.", "f", '{"count"'], [":1}"], []]


def test_what_may_be_a_tag_is_held_back_and_no_longer_than_a_tag() -> None:
    longest = max(map(len, READERS))
    text = "a < b <tool <|too [TOOL <|message_sep|>\n\nfunction call<|role_sep and so on"
    reader = AnswerReader(OFFERED, ALL_DIALECTS[0])
    told = ""
    for at, letter in enumerate(text, start=1):
        told += "".join(each for each in reader.feed(letter) if isinstance(each, str))
        assert at - len(told) <= longest
    assert told + "".join(map(str, reader.finish())) == text


def test_arguments_come_as_they_are_written() -> None:
    reader = AnswerReader(OFFERED, ALL_DIALECTS[0])
    reader.feed('<tool_call>{"name": "f", "arguments": {"text": "')
    for word in ("one", " two", " three"):
        assert reader.feed(word) == [Arguments(word)]


def test_raw_text_comes_as_it_is_written_and_other_values_whole() -> None:
    told = shown(
        "<tool_call>\n<function=f>\n<parameter=text>\n",
        'import "this"\nprint(1)\n',
        "# and so on, for a while\n\n",
        "</parameter>\n<parameter=count>7",
        "\n</parameter>\n</function></tool_call>",
    )
    pieces = [piece for each in told for piece in each]
    assert pieces[0] == "f"
    assert json.loads("".join(pieces[1:])) == {
        "text": 'import "this"\nprint(1)\n# and so on, for a while\n',
        "count": 7,
    }
    assert [bool(each) for each in told] == [True, True, True, True, True, False]


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (r'{"text": "\u00e9\ud83d\ude00"}', {"text": "é😀"}),
        (r'{"text": "\ud83d alone"}', {"text": "\ufffd alone"}),
        ('{"text": "line\nbreak\tand tab"}', {"text": "line\nbreak\tand tab"}),
        (r'{"text": "it\'s"}', {"text": "it's"}),
        (r'"{\"count\": 3}"', {"count": 3}),
        ("null", {}),
    ],
)
def test_json_that_models_write_is_taken_as_it_is_meant(written: str, means: Any) -> None:
    told = read(f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>', OFFERED)
    assert told.values == [("f", means)]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call></tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {}}',
        '<tool_call>{"name": "f", "parameters": {}}</tool_call>',
        '<tool_call>{"arguments": {}, "name": "f"}</tool_call>',
        '<tool_call>{"name": "functions.f", "arguments": {}}</tool_call>',
        '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {}}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {}}}</tool_call>',
        '```json\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n```',
        '```\n{"name": "f", "arguments": {}}\n```',
        '{"name": "f", "arguments": {}}',
        "```tool_code\nprint(default_api.f())\n```",
        "[TOOL_CALLS]f{}",
        "[TOOL_CALLS]f[ARGS]{}",
        "<tool_call>f</tool_call>",
        "<function=f></function>",
    ],
)
def test_slips_that_leave_no_doubt_are_forgiven(text: str) -> None:
    assert read(text, OFFERED).values == [("f", {})]
    assert read(list(text), OFFERED).values == [("f", {})]


def test_arguments_without_names_take_the_places_of_the_schema() -> None:
    assert read("```tool_code\nf('a', 2)\n```", OFFERED).values == [
        ("f", {"text": "a", "count": 2})
    ]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": {count: 1}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "no object"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {\'count\': 1}}</tool_call>',
        "<|tool_call_start|>[f(count=launch())]<|tool_call_end|>",
        '<|tool_call_start|>[f(count=__import__("os"))]<|tool_call_end|>',
        '<|tool_call_start|>[f(**{"count": 1})]<|tool_call_end|>',
    ],
)
def test_a_whole_call_that_cannot_be_read_comes_as_it_is(text: str) -> None:
    for pieces in ([text], list(text)):
        told = read(["Well. ", *pieces, " Yes."], OFFERED)
        assert told == (f"Well. {text} Yes.", [], [False])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "g_',
        '<tool_call>{"name": "f", "arg',
        '<tool_call>{"name": "f", "arguments": {"text": "half a sen',
        '{"name": "f", "arguments": {"text": "half a sen',
        "<tool_call>\n<function=f>\n<parameter=text>\nhalf",
        "<tool_call>g_",
        "<tool_call>f<arg_key>text</arg_key><arg_value>half",
        "<|tool_call_start|>[f(text='half",
        '[TOOL_CALLS][{"name": "f", "arguments": {"text": "half',
    ],
)
def test_half_a_call_is_not_shown(text: str) -> None:
    told = read(text, OFFERED)
    assert told == ("", [], [True])


def test_a_parameter_that_stands_twice_is_no_guess() -> None:
    text = "<function=f><parameter=text>a</parameter><parameter=text>b</parameter></function>"
    assert read(text, OFFERED).faults == [False]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": ' + '{"list": [' * 15_000,
        '<tool_call>{"name": "f", "arguments": {"list": ' + "[" * 40_000,
        "<tool_call>{" * 15_000,
        '<tool_call>{"function": ' * 6_000,
        '<tool_call>{"arguments": "' * 6_000,
        "<tool_call>" * 15_000,
        "<tool_call>f<arg_key>" * 6_000,
        "<function=" * 15_000,
        "[TOOL_CALLS]" * 15_000,
        "<|tool_call_start|>[f(list=" + "[" * 40_000,
        "<|tool_call_start|>[f(count=" + "-" * 40_000 + "1)]",
        "<|tool_call_start|>[f(count=" + "9" * 40_000 + ")]",
        "<|tool_call>call:f{a:" + "{a:" * 15_000,
        "```json\n" * 10_000,
        "`" * 60_000,
        "<think>" * 15_000,
        '{"name": ' * 10_000,
    ],
)
@pytest.mark.parametrize("size", [0, 4096])
def test_no_text_is_too_hostile(text: str, size: int) -> None:
    started = time.process_time()
    pieces = [text[at : at + size] for at in range(0, len(text), size)] if size else text
    told = read(pieces, OFFERED, ALL_DIALECTS[2])
    assert [name for name, _ in told.calls] in ([], ["f"])
    assert time.process_time() - started < 3


def test_what_is_held_back_is_bounded() -> None:
    reader = AnswerReader(OFFERED, ALL_DIALECTS[0])
    reader.feed('<tool_call>{"arguments": {"text": "')
    told = sum(
        len(each) for _ in range(40) for each in reader.feed("x" * 50_000) if isinstance(each, str)
    )
    assert told > 1_000_000


def test_a_begun_call_is_not_held_back() -> None:
    reader = AnswerReader(OFFERED, ALL_DIALECTS[0])
    told = reader.feed('<tool_call>{"name": "f", "arguments": {"text": "')
    assert told[0] == Begun("f")
    for _ in range(100):
        assert len(reader.feed("x" * 50_000)) == 1
    assert len(reader._source.text) < 200_000
