"""OpenAI's own Python client asking for embeddings."""

from __future__ import annotations

import array
import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway import KEY, Gateway, wait_until
from tests.upstream import Upstream, completion, whole

pytestmark = pytest.mark.once

MODEL = "scripted/text-embedding-3-small"
VECTOR = [0.25, -0.5, 1.0]
PACKED = base64.b64encode(array.array("f", VECTOR).tobytes()).decode()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def embeddings(*vectors: Any, **more: Any) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
        **more,
    }


def test_the_clients_default_comes_back_as_numbers(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, embeddings(PACKED, PACKED))
    answer = client.embeddings.create(model=MODEL, input=["a", "b"])
    assert [each.embedding for each in answer.data] == [VECTOR, VECTOR]
    assert answer.usage.prompt_tokens == 7
    (asked,) = upstream.asked
    assert asked.path == "/v1/embeddings"
    assert asked.json() == {
        "model": "text-embedding-3-small",
        "input": ["a", "b"],
        "encoding_format": "base64",
    }


def test_floats_come_back_as_the_upstream_wrote_them(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, embeddings(VECTOR))
    answer = client.embeddings.create(model=MODEL, input="a", encoding_format="float")
    assert answer.data[0].embedding == VECTOR


def test_an_upstream_that_knows_floats_only_is_asked_for_base64_all_the_same(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, embeddings(VECTOR, [0, 1, 2]))
    answered = ask(gateway, input=["a", "b"], encoding_format="base64")
    found = [each["embedding"] for each in answered["data"]]
    assert found == [PACKED, base64.b64encode(array.array("f", [0, 1, 2]).tobytes()).decode()]


def test_an_upstream_that_knows_base64_only_answers_floats(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, embeddings(PACKED))
    answered = ask(gateway, input="a", encoding_format="float")
    assert answered["data"][0]["embedding"] == VECTOR


def test_where_no_format_is_asked_for_the_upstreams_own_stays(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, embeddings("AQIDBA=="))
    assert ask(gateway, input="a")["data"][0]["embedding"] == "AQIDBA=="
    assert upstream.asked[0].json() == {"input": "a", "model": "text-embedding-3-small"}


@pytest.mark.parametrize("given", [[1, 2, 3], [[1, 2], [3]]])
def test_tokens_go_upstream_as_they_came(
    client: openai.OpenAI, upstream: Upstream, given: Any
) -> None:
    upstream.script = whole(200, embeddings(PACKED))
    client.embeddings.create(model=MODEL, input=given, dimensions=3)
    assert upstream.asked[0].json()["input"] == given
    assert upstream.asked[0].json()["dimensions"] == 3


def test_unknown_fields_are_kept_both_ways(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, embeddings(VECTOR, id="emb-1"))
    answered = ask(gateway, input="a", input_type="query")
    assert answered["id"] == "emb-1"
    assert upstream.asked[0].json()["input_type"] == "query"


def test_the_ledger_has_the_tokens_and_the_answer_its_cost(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, embeddings(VECTOR))
    gateway.post("/v1/embeddings", {"model": MODEL, "input": "a"}, x_request_id="embedded-1")
    row = gateway.usage_row("embedded-1")
    assert (row["endpoint"], row["status"]) == ("embeddings", "success")
    assert (row["tokens_input"], row["tokens_output"], row["estimated"]) == (7, 0, False)


def test_tokens_are_counted_where_the_upstream_does_not(
    gateway: Gateway, upstream: Upstream
) -> None:
    answer = embeddings(VECTOR)
    del answer["usage"]
    upstream.script = whole(200, answer)
    gateway.post(
        "/v1/embeddings", {"model": MODEL, "input": [[1, 2, 3], [4]]}, x_request_id="embedded-2"
    )
    row = gateway.usage_row("embedded-2")
    assert (row["tokens_input"], row["estimated"]) == (4, True)


def test_a_refusal_of_the_upstream_is_told_as_it_came(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    error = {"message": "Too many.", "type": "invalid_request_error", "param": "input"}
    upstream.script = whole(400, {"error": error})
    with pytest.raises(openai.BadRequestError, match="Too many"):
        client.embeddings.create(model=MODEL, input="a")


@pytest.mark.parametrize(
    "answer",
    [
        b"not json",
        {"data": []},
        {"data": None},
        {},
        [],
        {"data": [{"index": 0}]},
        {"data": [{"embedding": {"a": 1}}]},
        {"data": [{"embedding": ["x"]}]},
        {"error": {"message": "broken"}},
        completion(),
    ],
    ids=str,
)
def test_what_is_no_answer_is_no_success(gateway: Gateway, upstream: Upstream, answer: Any) -> None:
    upstream.script = whole(200, answer)
    request = {"model": MODEL, "input": "a", "encoding_format": "base64"}
    answered = gateway.post("/v1/embeddings", request)
    assert answered.status == 502
    assert answered.json()["error"]["type"] == "upstream_error"


def test_a_caller_who_leaves_is_noticed_upstream(gateway: Gateway, upstream: Upstream) -> None:
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.embeddings.create(model=MODEL, input="a", timeout=0.3)
    wait_until(lambda: len(upstream.left) == 1, seconds=2)


def ask(gateway: Gateway, **request: Any) -> Any:
    answered = gateway.post("/v1/embeddings", {"model": MODEL, **request})
    assert answered.status == 200, answered.body
    return answered.json()
