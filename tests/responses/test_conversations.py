"""Conversations as the SDK makes them, over any provider."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.gateway import Gateway
from tests.responses.calls import MODEL, NATIVE, OTHER_KEY, create, response
from tests.upstream import Upstream, completion, whole

pytestmark = pytest.mark.once


def ask(gateway: Gateway, method: str, path: str, body: Any = None, *, key: str) -> Any:
    raw = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return gateway.call(method, f"/v1/conversations{path}", raw, headers)


def test_what_it_was_made_with_and_what_was_said_is_its_history(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Yes."))
    made = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "Be kind."}], metadata={"a": "b"}
    )
    assert client.conversations.retrieve(made.id) == made
    for text in ("One?", "Two?"):
        client.responses.create(model=MODEL, input=text, conversation=made.id)
    said = [each["content"] for each in upstream.asked[-1].json()["messages"]]
    assert said == ["Be kind.", "One?", "Yes.", "Two?"]
    items = list(client.conversations.items.list(made.id, order="asc", limit=2))
    assert [getattr(each, "role", None) for each in items] == [
        *("user", "user", "assistant", "user", "assistant")
    ]


def test_it_moves_between_providers(
    served: Gateway, client: openai.OpenAI, upstream: Upstream
) -> None:
    made = client.conversations.create(items=[{"type": "message", "role": "user", "content": "A"}])
    upstream.script = whole(200, completion("B"))
    create(served, input="C", conversation=made.id)
    upstream.script = whole(200, response("D"))
    create(served, model=NATIVE, input="E", conversation=made.id)
    sent = upstream.asked[-1].json()
    assert "conversation" not in sent
    assert len(sent["input"]) == 4


def test_a_deleted_one_has_no_history_and_its_responses_stay(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion())
    made = client.conversations.create()
    answer = client.responses.create(model=MODEL, input="x", conversation=made.id)
    client.conversations.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="x", conversation=made.id)
    assert client.responses.retrieve(answer.id).id == answer.id


def test_another_key_finds_nothing(
    served: Gateway, client: openai.OpenAI, upstream: Upstream
) -> None:
    made = client.conversations.create(metadata={"secret": "yes"})
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("GET", "/items", None),
        ("DELETE", "", None),
    ):
        assert ask(served, method, f"/{made.id}{path}", body, key=OTHER_KEY).status == 404
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=OTHER_KEY, max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            other.responses.create(model=MODEL, input="x", conversation=made.id)
        with pytest.raises(openai.NotFoundError):
            other.responses.create(model=NATIVE, input="x", conversation=made.id)
    assert client.conversations.retrieve(made.id).metadata == {"secret": "yes"}
    assert upstream.asked == []


def test_its_metadata_can_be_set(client: openai.OpenAI) -> None:
    made = client.conversations.create(metadata={"a": "b"})
    client.conversations.update(made.id, metadata={"c": "d"})
    assert client.conversations.retrieve(made.id).metadata == {"c": "d"}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("items", {"items": "x"}),
        ("items[0]", {"items": ["x"]}),
        ("items[0].type", {"items": [{}]}),
        ("items[0].role", {"items": [{"type": "message", "content": "x"}]}),
        ("metadata", {"metadata": []}),
        ("metadata[...]", {"metadata": {"a": 1}}),
    ],
)
def test_a_malformed_one_is_refused_by_its_place(
    client: openai.OpenAI, param: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.conversations.create(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["conv_x", "a%00b", "x" * 5000])
def test_a_strange_id_is_404(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(name)
