"""Conversations as the SDK makes them, over any provider."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import omit
from openai.types.conversations import ConversationItem
from pydantic import TypeAdapter

from tests.gateway import Gateway, wait_until
from tests.responses.calls import MODEL, NATIVE, OTHER_KEY, create, response
from tests.upstream import Asked, Peer, Upstream, completion, whole

item_type: TypeAdapter[Any] = TypeAdapter(ConversationItem)


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
        ("POST", "/items", {"items": []}),
        ("GET", "/items/msg_1", None),
        ("DELETE", "/items/msg_1", None),
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


def words(*said: str) -> Any:
    return [{"type": "message", "role": "user", "content": each} for each in said]


def listed(client: openai.OpenAI, name: str, limit: int = 100) -> list[Any]:
    return list(client.conversations.items.list(name, order="asc", limit=limit))


def texts(client: openai.OpenAI, name: str) -> list[str]:
    return [each.content[0].text for each in listed(client, name)]


def test_items_are_added_read_and_taken_out(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Yes."))
    made = client.conversations.create(items=words("A"))
    client.responses.create(model=MODEL, input="B", conversation=made.id)
    added: Any = client.conversations.items.create(made.id, items=words("C", "D"))
    assert [each.content[0].text for each in added.data] == ["C", "D"]
    assert (added.first_id, added.last_id) == (added.data[0].id, added.data[1].id)
    assert texts(client, made.id) == ["A", "B", "Yes.", "C", "D"]
    for item in listed(client, made.id):
        item_type.validate_python(item.to_dict())
        assert client.conversations.items.retrieve(item.id, conversation_id=made.id) == item
    assert client.conversations.items.delete(str(added.first_id), conversation_id=made.id) == made
    with pytest.raises(openai.NotFoundError) as caught:
        client.conversations.items.retrieve(str(added.first_id), conversation_id=made.id)
    assert caught.value.code == "item_not_found"
    client.responses.create(model=MODEL, input="E", conversation=made.id)
    said = [each["content"] for each in upstream.asked[-1].json()["messages"]]
    assert said == ["A", "B", "Yes.", "D", "E"]


def test_every_kind_of_item_is_listed_as_the_sdk_knows_it(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    upstream.script = whole(200, completion("Look.", tool_calls=[called], reasoning_content="Hm."))
    made = client.conversations.create()
    tools: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    client.responses.create(model=MODEL, input="x", tools=tools, conversation=made.id)
    result: Any = {"type": "function_call_output", "call_id": "call_1", "output": "5"}
    client.conversations.items.create(made.id, items=[result])
    upstream.script = whole(200, completion("Five."))
    client.responses.create(model=MODEL, input="And?", conversation=made.id)
    kinds = [each.type for each in listed(client, made.id, limit=3)]
    assert kinds == [
        *("message", "reasoning", "message", "function_call", "function_call_output"),
        *("message", "message"),
    ]
    for item in listed(client, made.id):
        item_type.validate_python(item.to_dict())


def test_it_keeps_what_was_said_when_a_response_is_deleted(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Yes."))
    made = client.conversations.create()
    answer = client.responses.create(model=MODEL, input="One?", conversation=made.id)
    client.responses.delete(answer.id)
    assert texts(client, made.id) == ["One?", "Yes."]


def test_a_failed_turn_adds_nothing(
    served: Gateway, client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(500, {"error": {"message": "no"}})
    made = client.conversations.create(items=words("A"))
    with pytest.raises(openai.APIStatusError):
        client.responses.create(model=MODEL, input="x", conversation=made.id)
    queued = create(served, conversation=made.id, background=True)
    wait_until(lambda: client.responses.retrieve(queued["id"]).status == "failed", seconds=10)
    assert texts(client, made.id) == ["A"]


def test_turns_at_the_same_time_stand_one_behind_the_other(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    async def echo(asked: Asked, peer: Peer) -> None:
        said = asked.json()["messages"][-1]["content"]
        await asyncio.sleep(0.05)
        peer.answer(200, json.dumps(completion(f"{said}!")).encode())

    upstream.script = echo
    made = client.conversations.create()

    def ask_one(number: int) -> None:
        background = number % 3 == 0
        answer = client.responses.create(
            model=MODEL, input=str(number), conversation=made.id, background=background
        )
        wait_until(lambda: client.responses.retrieve(answer.id).status == "completed", seconds=10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask_one, range(16)))
    said = texts(client, made.id)
    assert sorted(said[::2], key=int) == [str(number) for number in range(16)]
    assert said[1::2] == [f"{each}!" for each in said[::2]]


@pytest.mark.parametrize("name", ["c", "conv_unknown", "conv_" + "0" * 48])
@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}])
def test_a_turn_in_one_that_was_never_made_is_404(
    served: Gateway, upstream: Upstream, name: str, more: dict[str, bool]
) -> None:
    body = {"model": MODEL, "input": "x", "conversation": name, **more}
    answered = served.post("/v1/responses", body)
    error = answered.json()["error"]
    assert (answered.status, error["code"]) == (404, "conversation_not_found")
    assert upstream.asked == []


def test_an_item_is_there_once(client: openai.OpenAI) -> None:
    item: Any = {**words("x")[0], "id": "msg_mine"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.conversations.create(items=[item, item])
    assert caught.value.param == "items"
    made = client.conversations.create(items=[item])
    with pytest.raises(openai.BadRequestError):
        client.conversations.items.create(made.id, items=[*words("y"), item])
    assert texts(client, made.id) == ["x"]
    other = client.conversations.create(items=[item])
    assert texts(client, other.id) == ["x"]


def test_what_comes_back_by_its_id_stays_where_it_is(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, response("Same id."))
    made = client.conversations.create(items=words("A"))
    (first,) = listed(client, made.id)
    for _ in range(2):  # an upstream that gives the same ids again and again
        sent: Any = [first.to_dict(), *words("B")]
        client.responses.create(model=NATIVE, input=sent, conversation=made.id)
    assert texts(client, made.id) == ["A", "B", "Same id.", "B", "Same id."]
    assert len({each.id for each in listed(client, made.id)}) == 5


def test_metadata_is_needed_to_set_it_and_may_be_null(client: openai.OpenAI) -> None:
    made = client.conversations.create(metadata={"a": "b"})
    with pytest.raises(openai.BadRequestError) as caught:
        client.conversations.update(made.id, metadata=omit)  # type: ignore[arg-type]
    assert caught.value.param == "metadata"
    assert client.conversations.update(made.id, metadata=None).metadata == {}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("items", {"items": "x"}),
        ("items[0]", {"items": ["x"]}),
        ("items[0].type", {"items": [{}]}),
        ("items[0].role", {"items": [{"type": "message", "content": "x"}]}),
        ("metadata", {"metadata": []}),
        ("metadata[...]", {"metadata": {"a": 1}}),
        ("metadata[...]", {"metadata": {"a": "x" * 513}}),
        ("metadata", {"metadata": {str(number): "" for number in range(17)}}),
        ("items", {"items": [{"type": "message", "role": "user", "content": "x"}] * 21}),
        ("items[0].id", {"items": [{"role": "user", "content": "x", "id": "a b"}]}),
        ("items[0].id", {"items": [{"role": "user", "content": "x", "id": 5}]}),
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
