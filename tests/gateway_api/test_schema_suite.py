"""The JSON-Schema-Test-Suite, by those who wrote the specification, where it is at hand.

`make schema-suite` fetches it; TEST_JSON_SCHEMA_SUITE names another source archive of `jsonschema`.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from chat.errors import InvalidRequest
from gateway_api.native.answer_model import AnswerModel, answer_model
from providers.emulation.formats import CHECKS
from providers.emulation.schema import AnswerSchema

pytestmark = pytest.mark.once

FETCHED = Path(__file__).resolve().parents[2] / ".schema-suite"
DRAFT = "json/tests/draft2020-12/"
NOT_OURS = {
    "format": "there a format is a note, and with us it is held to",
    "refRemote": "what lies elsewhere is never fetched",
    "vocabulary": "meta-schemas of one's own are refused",
}
Group = tuple[str, dict[str, Any]]


def archive() -> Path | None:
    named = os.environ.get("TEST_JSON_SCHEMA_SUITE")
    if named:
        return Path(named)
    return next(iter(sorted(FETCHED.glob("jsonschema-*.tar.gz"))), None)


def files(folder: str) -> Iterator[tuple[str, Any]]:
    """The files right in a folder of the draft, by their names."""
    found = archive()
    if found is None:
        pytest.skip("the JSON-Schema-Test-Suite is not here: make schema-suite")
    with tarfile.open(found) as source:
        for member in source:
            place, _, name = member.name.rpartition("/")
            if place.endswith((DRAFT + folder).rstrip("/")) and name.endswith(".json"):
                content = source.extractfile(member)
                assert content is not None
                yield name.removesuffix(".json"), json.load(content)


def groups() -> Iterator[Group]:
    for name, content in files(""):
        for group in content:
            if name not in NOT_OURS and isinstance(group["schema"], dict):
                yield f"{name}: {group['description']}", group


def test_every_schema_that_is_taken_judges_as_the_suite_does() -> None:
    wrong, judged, refused = [], 0, []
    for name, group in groups():
        try:
            schema = AnswerSchema(group["schema"], param="schema")
            verdicts = [not schema.problems(test["data"]) for test in group["tests"]]
        except InvalidRequest:
            refused.append(name)
            continue
        judged += len(verdicts)
        wrong += [
            f"{name}: {test['description']}"
            for test, verdict in zip(group["tests"], verdicts, strict=True)
            if verdict is not test["valid"]
        ]
    assert wrong == []
    assert judged > 1000
    assert len(refused) < 15, refused


def test_every_schema_that_a_model_expresses_judges_as_the_suite_does() -> None:
    wrong, judged = [], 0
    for name, group in groups():
        try:
            schema = AnswerSchema(group["schema"], param="schema")
            model = answer_model(schema)
        except InvalidRequest:
            continue
        for test in group["tests"]:
            judged += 1
            fits = not schema.problems(test["data"]) and instantiates(model, test["data"])
            if fits is not test["valid"]:
                wrong.append(f"{name}: {test['description']}")
    assert wrong == []
    assert judged > 400


def instantiates(model: type[AnswerModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def test_formats_are_what_the_suite_says() -> None:
    """But for leap seconds at odd times, and times without a zone, which pydantic writes."""
    wrong = [
        f"{name}: {test['description']}"
        for name, content in files("optional/format")
        for group in content
        for test in group["tests"]
        if name in CHECKS and isinstance(test["data"], str)
        if CHECKS[name](test["data"]) is not test["valid"]
        if not any(word in test["description"] for word in ("leap second", "offset"))
    ]
    assert wrong == []
