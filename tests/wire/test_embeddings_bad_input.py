"""Embeddings requests no upstream should see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.upstream import Upstream, completion, whole
from tests.wire.test_bad_input import check_error

pytestmark = pytest.mark.once

MODEL = "scripted/text-embedding-3-small"
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("input", {}),
    ("input", {"input": None}),
    ("input", {"input": ""}),
    ("input", {"input": []}),
    ("input", {"input": 5}),
    ("input", {"input": {"text": "a"}}),
    ("input", {"input": True}),
    ("input", {"input": [[]]}),
    ("input", {"input": [[1], []]}),
    ("input", {"input": ["a", 1]}),
    ("input", {"input": [1, "a"]}),
    ("input", {"input": [1, [2]]}),
    ("input", {"input": ["a", [2]]}),
    ("input", {"input": [-1]}),
    ("input", {"input": [[1, -1]]}),
    ("input[0]", {"input": [1.5]}),
    ("input[1]", {"input": ["a", None]}),
    ("input[0]", {"input": [True]}),
    ("input[0]", {"input": [{"text": "a"}]}),
    ("input[0][1]", {"input": [[1, "a"]]}),
    ("input[0][0]", {"input": [[[1]]]}),
    ("dimensions", {"input": "a", "dimensions": "256"}),
    ("dimensions", {"input": "a", "dimensions": 2.5}),
    ("encoding_format", {"input": "a", "encoding_format": 1}),
    ("user", {"input": "a", "user": 1}),
    ("model", {"input": "a", "model": 1}),
]


@pytest.fixture(autouse=True)
def _never_asked(upstream: Upstream) -> Iterator[None]:
    upstream.script = whole(200, completion())
    yield
    assert upstream.asked == []


@pytest.mark.parametrize(("place", "fields"), WRONG, ids=str)
def test_a_wrong_request_is_refused_by_its_place(
    gateway: Gateway, place: str, fields: dict[str, Any]
) -> None:
    error = check_error(gateway.post("/v1/embeddings", {"model": MODEL, **fields}))
    assert error["param"] == place


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_405(gateway: Gateway, method: str) -> None:
    headers = {"authorization": "Bearer gw-test-0123456789abcdef0123456789abcdef"}
    answered = gateway.call(method, "/v1/embeddings", headers=headers)
    assert answered.status == 405
    assert "POST" in answered.headers["allow"]


def test_without_a_key_it_is_401(gateway: Gateway) -> None:
    answered = gateway.post("/v1/embeddings", {"model": MODEL, "input": "a"}, authorization="")
    assert answered.status == 401
