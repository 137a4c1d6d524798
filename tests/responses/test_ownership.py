"""A stored response belongs to the key that made it; another's does not exist."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway import Gateway
from tests.responses.calls import MODEL, NATIVE, OTHER_KEY, call, conversation, create, response
from tests.upstream import Upstream, completion, whole


@pytest.fixture
def made(served: Gateway, upstream: Upstream) -> Any:
    upstream.script = whole(200, completion("A secret."))
    answer = create(served, input="x", conversation=conversation(served))
    upstream.asked = []
    return answer


@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")],
)
def test_another_key_finds_nothing_not_even_an_admins(
    served: Gateway, made: Any, method: str, rest: str
) -> None:
    theirs = call(served, method, f"/{made['id']}{rest}", key=OTHER_KEY)
    nobodys = call(served, method, f"/resp_{'0' * 48}{rest}", key=OTHER_KEY)
    assert (theirs.status, nobodys.status) == (404, 404)
    told = theirs.json()["error"]["message"].replace(made["id"], "X")
    assert told == nobodys.json()["error"]["message"].replace(f"resp_{'0' * 48}", "X")
    assert call(served, "GET", f"/{made['id']}").status == 200


def test_another_key_cannot_go_on_from_it(served: Gateway, upstream: Upstream, made: Any) -> None:
    body = {"model": MODEL, "input": "Go on.", "previous_response_id": made["id"]}
    answered = call(served, "POST", "", body, key=OTHER_KEY)
    error = answered.json()["error"]
    assert (answered.status, error["code"]) == (400, "previous_response_not_found")
    assert upstream.asked == []


def test_another_key_cannot_refer_to_its_items(
    served: Gateway, upstream: Upstream, made: Any
) -> None:
    item = {"type": "item_reference", "id": made["output"][0]["id"]}
    answered = call(served, "POST", "", {"model": MODEL, "input": [item]}, key=OTHER_KEY)
    assert (answered.status, answered.json()["error"]["param"]) == (400, "input[0]")
    assert upstream.asked == []


def test_another_key_cannot_speak_in_its_conversation(
    served: Gateway, upstream: Upstream, made: Any
) -> None:
    body = {"model": MODEL, "input": "Mine.", "conversation": made["conversation"]["id"]}
    answered = call(served, "POST", "", body, key=OTHER_KEY)
    error = answered.json()["error"]
    assert (answered.status, error["code"]) == (404, "conversation_not_found")
    assert upstream.asked == []


def test_an_id_two_upstreams_gave_belongs_to_each_key_by_itself(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response("First's.", id="resp_same"))
    create(served, model=NATIVE)
    upstream.script = whole(200, response("Second's.", id="resp_same"))
    create(served, model=NATIVE, key=OTHER_KEY)

    def said(answered: Any) -> Any:
        return answered.json()["output"][0]["content"][0]["text"]

    assert said(call(served, "GET", "/resp_same")) == "First's."
    assert call(served, "DELETE", "/resp_same", key=OTHER_KEY).status == 200
    assert said(call(served, "GET", "/resp_same")) == "First's."


def test_without_a_key_there_is_nothing(served: Gateway, made: Any) -> None:
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        answered = served.call(method, f"/v1/responses/{made['id']}{rest}")
        assert answered.status == 401


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a%00b", "%F0%9F%98%80", "..%2f..", "%27%20OR%201=1", "*"]
)
def test_a_strange_id_is_404(served: Gateway, name: str) -> None:
    assert call(served, "GET", f"/{name}").status == 404
