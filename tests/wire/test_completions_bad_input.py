"""Text completion requests no upstream should see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.upstream import Upstream, completion, whole
from tests.wire.test_bad_input import check_error

pytestmark = pytest.mark.once

MODEL = "scripted/gpt-3.5-turbo-instruct"
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {}),
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": 5}),
    ("prompt", {"prompt": {"text": "a"}}),
    ("prompt", {"prompt": [[]]}),
    ("prompt", {"prompt": ["a", 1]}),
    ("prompt", {"prompt": [[1], "a"]}),
    ("prompt", {"prompt": [-1]}),
    ("prompt[1]", {"prompt": ["a", None]}),
    ("prompt[0][1]", {"prompt": [[1, 1.5]]}),
    ("n", {"prompt": "a", "n": 0}),
    *((name, {"prompt": "a", name: "2"}) for name in ("best_of", "logprobs", "max_tokens", "n")),
    *((name, {"prompt": "a", name: 1.5}) for name in ("best_of", "logprobs", "max_tokens", "seed")),
    *((name, {"prompt": "a", name: 1}) for name in ("echo", "stream", "suffix", "user", "stop")),
    *((name, {"prompt": "a", name: "1"}) for name in ("temperature", "top_p", "logit_bias")),
    ("stream_options", {"prompt": "a", "stream_options": True}),
    ("stop[0]", {"prompt": "a", "stop": [1]}),
    ("model", {"prompt": "a", "model": 1}),
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
    error = check_error(gateway.post("/v1/completions", {"model": MODEL, **fields}))
    assert error["param"] == place


def test_without_a_key_it_is_401(gateway: Gateway) -> None:
    answered = gateway.post("/v1/completions", {"model": MODEL, "prompt": "a"}, authorization="")
    assert answered.status == 401
