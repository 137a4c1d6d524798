"""Schemas on their way to what holds an answer to them: narrowed, compiled, bounded."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest

from tests.local_models.conversion import converted_model
from tests.local_models.local import require

require("transformers")

import numpy as np  # noqa: E402

from providers.runner.serving.errors import Refusal  # noqa: E402
from providers.runner.serving.grammar import Constraint, Grammars  # noqa: E402
from providers.runner.serving.sampling import Sampler, Sampling  # noqa: E402
from providers.runner.serving.schemas import MAX_SCHEMA_BYTES, narrowed  # noqa: E402
from providers.runner.serving.tokens import open_tokenizer  # noqa: E402

pytestmark = pytest.mark.once
END = 2


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return open_tokenizer(converted_model())


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, ends=[END])


def takes(constraint: Constraint, tokenizer: Any, text: str) -> bool:
    for token in tokenizer.encode(text, add_special_tokens=False):
        if not constraint.allowed(len(tokenizer))[token]:
            return False
        constraint.advance(token)
    return True


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"name": "Ada", "age": 36}', True),
        ('{"name":"Ada"}', True),
        ('{"name": "Adaline"}', False),
        ('{"name": "Ada", "born": 1815}', False),
        ('{"age": 36}', False),
        ('{"name": "Ada", "age": 3.6}', False),
        ('{\n  "name": "Ada"}', False),
        ('{"name": "A\\ud800"}', False),
        ('{"name": "\\n é"}', True),
        (f'{{"name": "Ada", "age": {2**53}}}', False),
    ],
)
def test_only_what_fits_the_schema_can_be_said(
    grammars: Grammars, tokenizer: Any, text: str, fits: bool
) -> None:
    constraint = grammars.compile(PERSON, param="p").start()
    assert (takes(constraint, tokenizer, text) and constraint.is_complete) is fits


def test_each_answer_goes_its_own_way_through_a_grammar(grammars: Grammars, tokenizer: Any) -> None:
    grammar = grammars.compile({"enum": ["yes", "no"]}, param="p")
    first, second = grammar.start(), grammar.start()
    assert takes(first, tokenizer, '"yes"')
    assert first.is_complete
    assert not second.is_complete
    assert takes(second, tokenizer, '"no"')


def test_an_answer_may_end_only_where_it_is_whole(grammars: Grammars, tokenizer: Any) -> None:
    constraint = grammars.compile({"type": "integer"}, param="p").start()
    assert not constraint.allowed(len(tokenizer))[END]
    assert takes(constraint, tokenizer, "12")
    assert constraint.allowed(len(tokenizer))[END]


def test_scores_beyond_the_vocabulary_are_never_picked(grammars: Grammars, tokenizer: Any) -> None:
    allowed = grammars.compile(PERSON, param="p").start().allowed(len(tokenizer) + 100)
    assert len(allowed) == len(tokenizer) + 100
    assert not allowed[len(tokenizer) :].any()


def test_a_token_that_does_not_fit_ends_the_answer(grammars: Grammars, tokenizer: Any) -> None:
    [word] = tokenizer.encode("hello", add_special_tokens=False)
    with pytest.raises(Refusal) as refused:
        grammars.compile(PERSON, param="p").start().advance(word)
    assert refused.value.status == 500


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, top_k=1), Sampling(1.0, top_p=0.5)])
def test_what_is_not_allowed_is_not_picked_however_likely(sampling: Sampling) -> None:
    scores = np.array([9.0, 1.0, 2.0], dtype=np.float32)
    allowed = np.array([False, True, True])
    sampler = Sampler(sampling, prompt=())
    assert all(sampler.pick(scores, allowed).token != 0 for _ in range(20))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "format": "zip"}, "zip"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"$ref": "https://example.com/person.json"}, "example.com"),
        ({"enum": []}, "Unsatisfiable"),
    ],
)
def test_what_an_answer_cannot_be_held_to_is_refused_with_the_reason(
    grammars: Grammars, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refusal) as refused:
        grammars.compile(schema, param="response_format")
    assert (refused.value.status, refused.value.param) == (400, "response_format")
    assert reason in refused.value.message
    assert "\n" not in refused.value.message


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubled(times: int) -> dict[str, Any]:
    """Each of its definitions has two of the next."""
    definitions: dict[str, Any] = {f"d{times}": {"type": "integer"}}
    for at in range(times):
        following = {"$ref": f"#/$defs/d{at + 1}"}
        definitions[f"d{at}"] = {"anyOf": [{"allOf": [following, following]}, following]}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


HOSTILE = {
    "deep": nested(900),
    "wide": {"properties": {f"p{at}": {"enum": list(range(40))} for at in range(4000)}},
    "large": {"enum": ["x" * MAX_SCHEMA_BYTES]},
    "values": {"enum": [f"value number {at}" for at in range(45_000)]},
    "doubled": doubled(24),
    "branches": {
        "allOf": [
            {"anyOf": [{"properties": {f"x{at}{i}": {"type": "integer"}}} for i in range(4)]}
            for at in range(9)
        ]
    },
    "pattern": {"type": "string", "pattern": "^(([a-z]+)+[0-9]{1,500}){1,500}$"},
    "patterns": {"allOf": [{"pattern": ".*a.{25}"}, {"pattern": ".*b.{27}"}, {"type": "string"}]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_costs_little(grammars: Grammars, tokenizer: Any, name: str) -> None:
    grammars.compile({}, param="p")  # the vocabulary is read once
    began = time.thread_time()
    try:
        constraint = grammars.compile(HOSTILE[name], param="p").start()
        takes(constraint, tokenizer, '"ababababababababababab')
    except Refusal as refusal:
        assert refusal.status in (400, 500)
    assert time.thread_time() - began < 5


class Foreign:
    """A tokenizer that is not of the library `tokenizers`."""


def test_a_tokenizer_that_cannot_be_read_is_told() -> None:
    with pytest.raises(Refusal) as refused:
        Grammars(Foreign(), ends=[END]).compile({}, param="p")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("schema", "inside"),
    [
        ({"properties": {"a": {}}}, {"additionalProperties": False}),
        ({"properties": {"a": {}}, "additionalProperties": True}, {"additionalProperties": True}),
        ({"type": "object"}, {"type": "object"}),
        ({"properties": {"a": {}}, "anyOf": [{}]}, {"properties": {"a": {}}, "anyOf": [{}]}),
        ({"type": "integer"}, {"minimum": -(2**53) + 1, "maximum": 2**53 - 1}),
        ({"type": "integer", "minimum": 0}, {"minimum": 0, "maximum": 2**53 - 1}),
        ({"type": "integer", "exclusiveMaximum": 9}, {"minimum": -(2**53) + 1}),
        ({"type": "integer", "minimum": 2**60}, {"type": "integer", "minimum": 2**60}),
        ({"type": "integer", "const": 7}, {"type": "integer", "const": 7}),
        ({"type": ["integer", "null"]}, {"maximum": 2**53 - 1}),
        ({"type": "number"}, {"type": "number"}),
    ],
)
def test_a_schema_is_narrowed_where_a_small_model_finds_no_end(
    schema: dict[str, Any], inside: dict[str, Any]
) -> None:
    made = narrowed(schema)
    assert inside.items() <= made.items()
    if inside.keys() == schema.keys():
        assert made == schema


def test_every_part_of_a_schema_is_narrowed_and_nothing_that_only_looks_like_one() -> None:
    part = {"properties": {"a": {"type": "string"}}}
    closed = {**part, "additionalProperties": False}
    schema = {
        "properties": {"properties": part, "items": {"items": part}, "same": {"const": part}},
        "$defs": {"one": {"anyOf": [part, {"prefixItems": [part]}]}},
    }
    assert narrowed(schema) == {
        "properties": {"properties": closed, "items": {"items": closed}, "same": {"const": part}},
        "$defs": {"one": {"anyOf": [closed, {"prefixItems": [closed]}]}},
        "additionalProperties": False,
    }


def test_combined_schemas_are_left_open_so_that_they_can_be_met() -> None:
    schema: dict[str, Any] = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    assert narrowed(schema) == schema
    jsonschema.validate(json.loads('{"a": 1, "b": 2}'), narrowed(schema))
