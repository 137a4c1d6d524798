"""Schemas of callers, and what of an answer is judged by them: also those made to do harm."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chat.errors import InvalidRequest
from providers.emulation.answer_text import NoAnswer, find_value
from providers.emulation.pattern_weight import weigh_pattern
from providers.emulation.patterns import PatternRefused, compile_pattern, matches
from providers.emulation.schema import MAX_BYTES, AnswerSchema, schema_of

pytestmark = pytest.mark.once


def fits(schema: dict[str, Any], value: Any) -> bool:
    return not AnswerSchema(schema, param="s").problems(value)


def refused(schema: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        AnswerSchema(schema, param="s")
    return caught.value


# --- verdicts -----------------------------------------------------------------------------------

TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "properties": {"kids": {"items": {"$ref": "#/$defs/node"}}, "of": {"const": 1}},
            "required": ["of"],
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (TREE, {"of": 1, "kids": [{"of": 1}]}, {"of": 1, "kids": [{"of": 1, "kids": [{}]}]}),
        ({"enum": ["a", 1, None]}, 1.0, True),
        ({"type": ["integer", "null"]}, 2.0, 2.5),
        ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, 5, 4),
        ({"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}, 4, 6),
        ({"additionalProperties": False, "patternProperties": {"^x": True}}, {"xy": 1}, {"y": 1}),
        (
            {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
            {"b": None},
            {"b": 1},
        ),
        ({"if": {"minimum": 10}, "then": {"multipleOf": 10}}, 20, 15),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["a"], ["a", 1]),
        ({"uniqueItems": True}, [1, True, {"a": 1}], [{"a": 1}, {"a": 1}]),
        ({"format": "date-time"}, "2026-11-25T04:00:00.123456789Z", "2026-11-25"),
        ({"format": "email"}, "a@b.example", "a@"),
        ({"format": "wine"}, "anything", None),
        ({"pattern": "^[a-z]+$", "minLength": 2}, "ab", "a"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"const": 1}]}, [1], [2]),
    ],
)
def test_a_value_is_judged_as_the_specification_has_it(
    schema: dict[str, Any], good: Any, bad: Any
) -> None:
    assert fits(schema, good)
    assert bad is None or not fits(schema, bad)


def test_of_a_choice_the_nearest_error_is_told() -> None:
    cat = {"properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}}
    dog = {"properties": {"kind": {"const": "dog"}}}
    schema = AnswerSchema({"properties": {"pet": {"anyOf": [cat, dog]}}}, param="s")
    (problem,) = schema.problems({"pet": {"kind": "cat", "lives": "nine"}})
    assert problem.path.startswith("$.pet.")


def test_a_long_value_does_not_make_a_long_complaint() -> None:
    (problem,) = AnswerSchema({"type": "integer"}, param="s").problems("x" * 100_000)
    assert len(problem.message) < 400


# --- schemas that are none ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": 5}, "s.type"),
        ({"properties": {"a b": {"required": "x"}}}, "s.properties['a b'].required"),
        ({"pattern": "["}, "s.pattern"),
        ({"$schema": "https://example.com/mine"}, "s.$schema"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "s.properties.a.$ref"),
        ({"$ref": "file:///etc/passwd"}, "s.$ref"),
        ({"$dynamicRef": "http://127.0.0.1/x"}, "s.$dynamicRef"),
    ],
)
def test_what_is_no_schema_is_told_by_its_place(schema: dict[str, Any], param: str) -> None:
    error = refused(schema)
    assert (error.http_status, error.code, error.param) == (400, "invalid_schema", param)


def test_nothing_is_fetched_for_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an `$id` leaves it open until an answer comes what a reference means."""

    def fetched(*_: Any, **__: Any) -> Any:
        pytest.fail("something was asked for")

    monkeypatch.setattr("urllib.request.urlopen", fetched)
    assert refused({"$id": "http://127.0.0.1/a.json", "$ref": "b.json"}).code == "invalid_schema"


# --- schemas that do harm -----------------------------------------------------------------------


def laughs(levels: int) -> dict[str, Any]:
    """Each level means the one before it twice."""
    named: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, levels):
        before = {"$ref": f"#/$defs/d{level - 1}"}
        named[f"d{level}"] = {"allOf": [before, before]}
    return {"$defs": named, "$ref": f"#/$defs/d{levels - 1}"}


def choices(leaf: dict[str, Any]) -> dict[str, Any]:
    """Each level offers nine times the one before it."""
    named: dict[str, Any] = {"c0": {"minimum": 0, **leaf}}
    for level in range(1, 5):
        named[f"c{level}"] = {"anyOf": [{"$ref": f"#/$defs/c{level - 1}"}] * 9}
    # What is no object is judged when the schema is.
    return {"$defs": named, "if": {"type": ["array", "object", "string", "integer"]}} | {
        "then": {"$ref": "#/$defs/c4"}
    }


def far(steps: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(steps):
        schema = {"a": schema}
    return schema


NAMES = [f"n{at}" for at in range(3000)]


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        nested(100),
        nested(2000),
        {"enum": ["x" * MAX_BYTES]},
        {"pattern": "(a+)+\\1"},
        {"pattern": "x" * 10_000},
        {"pattern": "a{1,1000}{1,1000}"},
        {"properties": {f"p{n}": {"pattern": f"\\w{{40}}{n}"} for n in range(1000)}},
        {"unevaluatedProperties": False, "$defs": {"x": {"patternProperties": {"(a+)+$": True}}}},
    ],
    ids=[
        "self",
        "all",
        "circle",
        "deep",
        "abyss",
        "huge",
        "back",
        "long",
        "counted",
        "many",
        "mixed",
    ],
)
def test_a_schema_without_an_end_is_refused_at_once(schema: dict[str, Any]) -> None:
    started = time.thread_time()  # whatever else the machine does
    assert refused(schema).code == "invalid_schema"
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (laughs(30), "x"),
        ({"items": {"anyOf": [{"const": n} for n in range(1000)]}}, [999] * 5000),
        (choices({"enum": ["x" * 90_000]}), "y"),
        (choices({"type": "string"}), {"a": ["y" * 10] * 10_000}),
        (choices({"format": "ipv6"}), ":" * 1_000_000),
        (choices({"const": [0] * 30_000}), [0] * 29_999 + [1]),
        (choices({"dependentRequired": {"n0": NAMES}}), dict.fromkeys(NAMES[:-1])),
        (choices({"$ref": f"#/far{'/a' * 200}"}) | {"far": far(200)}, 1),
        ({"allOf": [{"items": True}], "unevaluatedItems": False}, [[]] * 100_000),
    ],
    ids=[
        *("laughs", "choices", "listed", "told", "formats", "equal", "dependent", "far"),
        "unevaluated",
    ],
)
def test_a_validation_without_an_end_is_broken_off(schema: dict[str, Any], value: Any) -> None:
    judge = AnswerSchema(schema, param="s")
    started = time.thread_time()  # whatever else the machine does
    with pytest.raises(InvalidRequest, match="too many steps"):
        judge.problems(value)
    assert time.thread_time() - started < 3


def test_objects_are_found_unique_in_linear_time() -> None:
    schema = AnswerSchema({"uniqueItems": True}, param="s")
    objects = [{"a": n, "b": ["x"] * 10} for n in range(20_000)]
    started = time.thread_time()  # whatever else the machine does
    assert schema.problems(objects) == []
    assert len(schema.problems([*objects, {"b": ["x"] * 10, "a": 7.0}])) == 1
    assert time.thread_time() - started < 10


DIALECT = "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": DIALECT, "properties": {"a": {"$ref": "#"}}, "pattern": "(a+)+$"},
        {"properties": {"a": {"$schema": DIALECT, "pattern": "(a+)+$"}}},
        {"properties": {"a": {"$ref": "#/far/a"}}, "far": {"a": {"pattern": "(a+)+$"}}},
    ],
    ids=["itself", "part", "far"],
)
def test_no_part_of_a_schema_has_python_look_for_its_pattern(schema: dict[str, Any]) -> None:
    """A part that names its dialect was judged by the package's own, with Python's expressions."""
    started = time.thread_time()  # whatever else the machine does
    (problem,) = AnswerSchema(schema, param="s").problems({"a": "a" * 27 + "b"})
    assert "does not match" in problem.message
    assert time.thread_time() - started < 2


def test_names_within_a_schema_are_looked_for_once() -> None:
    """Each reference walked through the whole schema: 300 held a worker for 6 s."""
    named = {f"n{at}": {"$anchor": f"a{at}", "minimum": 0} for at in range(1500)}
    started = time.thread_time()  # whatever else the machine does
    AnswerSchema({"$defs": named, "anyOf": [{"$ref": "#a1499"}] * 1500}, param="s")
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"title": "abc", "$ref": "#/title"}, "s.$ref"),
        ({"title": "abc", "$ref": "#/title/0"}, "s.$ref"),
        ({"x": 5, "properties": {"a": {"$ref": "#/x"}}}, "s.properties.a.$ref"),
        ({"x": {"type": 5}, "$ref": "#/x"}, "s.$ref.type"),
        ({"x": {"pattern": "(a)\\1"}, "$ref": "#/x"}, "s.$ref.pattern"),
        (
            {"x": {"$ref": "#/y"}, "y": {"items": {"$ref": "#/z"}}, "$ref": "#/x"},
            "s.$ref.$ref.items.$ref",
        ),
        ({"$id": "http://[", "$ref": "x"}, "s"),
        ({"$id": "http://a/b", "properties": {"c": {"$ref": "d"}}}, "s.properties.c.$ref"),
        (
            {"$id": "/b", "$defs": {"c": {"$id": "/d/", "$defs": {"e": {}}, "$ref": "#/$defs/f"}}},
            "s.$defs.c.$ref",
        ),
        ({"type": [{"a": n} for n in range(5000)]}, "s.type[0]"),
    ],
)
def test_what_a_reference_leads_to_has_to_be_a_schema(schema: dict[str, Any], param: str) -> None:
    started = time.thread_time()  # whatever else the machine does
    error = refused(schema)
    assert (error.http_status, error.code, error.param) == (400, "invalid_schema", param)
    assert time.thread_time() - started < 5


def test_a_schema_may_stand_where_only_references_reach_it() -> None:
    pets = {"components": {"schemas": {"Pet": {"required": ["name"]}}}}
    schema = {**pets, "items": {"$ref": "#/components/schemas/Pet"}}
    assert fits(schema, [{"name": "Tom"}])
    assert not fits(schema, [{}])


@pytest.mark.parametrize(
    ("pattern", "good"), [(r"\p{Letter}", "é"), (r"^(?<year>\d{4})$", "2026"), (r"\z", "")]
)
def test_an_expression_is_rusts_and_not_pythons(pattern: str, good: str) -> None:
    assert fits({"pattern": pattern}, good)


@pytest.mark.parametrize(
    ("pattern", "weight"),
    [
        ("^abc$", 5),
        ("(ab){3}", 6),
        ("(a{2}b){3,}", 9),
        ("a{2}{3}", 6),
        (r"\w{2,50}", 500),
        (r"[^\W_]{3}", 30),
        (r"\p{Letter}", 10),
        (r"a\{3}", 5),
        ("((", 0),
        ("a)", 2),
    ],
)
def test_an_expression_is_weighed_with_its_repetitions(pattern: str, weight: int) -> None:
    assert weigh_pattern(pattern) == weight


def test_a_large_honest_answer_is_not_broken_off() -> None:
    part = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(10)}}
    schema = AnswerSchema(
        {"type": "array", "items": {"$ref": "#/$defs/p"}, "$defs": {"p": part}}, param="s"
    )
    assert schema.problems([{f"p{n}": "x" for n in range(10)}] * 2000) == []


def test_an_expression_takes_linear_time() -> None:
    started = time.thread_time()  # whatever else the machine does
    assert not matches("^(a+)+$", "a" * 50_000 + "!")
    assert not fits({"patternProperties": {"^(a+)+$": False}}, {"a" * 5000: 1})
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", "-12.5", "+."),  # pydantic's Decimal
        (r"^(?=.*\d)(?=.*[A-Z])\w{4,}$", "Abc1", "abc1"),
        (r"^(?!a|b)\w", "c", "b"),
        ("b", "abc", "ac"),
        ("^(?:[^)(]|x)$", "x", ")"),
    ],
)
def test_leading_look_ahead_is_checked_as_expressions_of_its_own(
    pattern: str, good: str, bad: str
) -> None:
    assert matches(pattern, good)
    assert not matches(pattern, bad)


@pytest.mark.parametrize("pattern", ["^(?=a)b|c", "a(?!b)", "(?<=a)b", "^(?=a"])
def test_look_around_elsewhere_is_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused):
        compile_pattern(pattern)


def test_the_same_schema_is_read_once() -> None:
    assert schema_of({"type": "null"}, param="s") is schema_of({"type": "null"}, param="s")


# --- the JSON in a text -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' {"a": 1.10}\n', '{"a": 1.10}'),
        ('```json\n{"a": "```"}\n```', '{"a": "```"}'),
        ('Here it is: {"a": {"b": "}"}}. Good?', '{"a": {"b": "}"}}'),
        ('For {name}: {"a": 1}', '{"a": 1}'),
        ('<think>{"a": 0}?</think>{"a": 1}', '{"a": 1}'),
        ('{"a": 1} That is: {"a": 1}', '{"a": 1}'),
        ('"text"', '"text"'),
    ],
)
def test_the_answer_is_found_to_the_letter(text: str, found: str) -> None:
    assert find_value(text).text == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No.",
        '{"a": 1',
        '{"a": [{"b": 1}, {"b": "x',
        "{'a': {\"b\": 1}}",
        '{"a": 1} or {"a": 2}',
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": 1e999}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "{x}" * 50_000,
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_one_value_is_not_guessed(text: str) -> None:
    started = time.thread_time()  # whatever else the machine does
    with pytest.raises(NoAnswer):
        find_value(text)
    assert time.thread_time() - started < 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
PROSE = st.text(alphabet=st.characters(exclude_characters='{}[]"<'))


@settings(max_examples=30, deadline=None)
@example(value={"</think>": {}, "": {"a": None}}, before="", after="0")
@example(value={"a": "</think>"}, before="<think>or {}</think>", after=" that is {")
@given(value=st.dictionaries(st.text(), JSON), before=PROSE, after=PROSE)
def test_an_object_in_prose_is_always_found(value: dict[str, Any], before: str, after: str) -> None:
    text = json.dumps(value)
    found = find_value(f"{before}{text}{after}")
    assert (found.value, found.text) == (value, text)
