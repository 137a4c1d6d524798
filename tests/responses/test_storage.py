"""Stored responses in the database: chains, items, abandoned work, and how long they are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from sessions_app import responses
from sessions_app.models import StoredItem, StoredResponse
from sessions_app.responses import Kept, UnknownResponse, chain_of, find, keep, queue

pytestmark = pytest.mark.django_db


def kept(name: str, *, previous: str = "", owner: str = "ci", **fields: Any) -> Kept:
    body = {
        "id": name,
        "status": "completed",
        "output": [{"id": f"msg_{name}", "type": "message", "role": "assistant", "content": []}],
    }
    return Kept(
        owner=owner,
        response_id=name,
        model="m",
        previous_response_id=previous,
        input=[{"id": f"in_{name}", "type": "message", "role": "user", "content": "x"}],
        body={**body, **fields.pop("body", {})},
        **fields,
    )


def names(rows: list[StoredResponse]) -> list[str]:
    return [row.response_id for row in rows]


def test_a_chain_is_one_branch_the_oldest_first(django_assert_max_num_queries: Any) -> None:
    keep(kept("a"))
    for name, previous in (("b", "a"), ("left", "b"), ("right", "b"), ("c", "right")):
        keep(kept(name, previous=previous))
    with django_assert_max_num_queries(4):
        assert names(chain_of("ci", "c")) == ["a", "b", "right", "c"]
    assert names(chain_of("ci", "left")) == ["a", "b", "left"]


def test_a_chain_with_a_hole_is_unknown_by_the_missing_name() -> None:
    keep(kept("a"))
    keep(kept("b", previous="a"))
    keep(kept("c", previous="b"))
    responses.forget("ci", "b")
    with pytest.raises(UnknownResponse, match="b"):
        chain_of("ci", "c")
    assert names(chain_of("ci", "a")) == ["a"]


def test_a_chain_that_bites_its_tail_is_unknown() -> None:
    keep(kept("a"))
    keep(kept("b", previous="a"))
    keep(kept("a", previous="b"))
    with pytest.raises(UnknownResponse):
        chain_of("ci", "b")


def test_two_owners_may_have_one_id() -> None:
    keep(kept("a"))
    keep(kept("a", owner="other"))
    responses.forget("other", "a")
    assert find("ci", "a").owner == "ci"
    with pytest.raises(UnknownResponse):
        find("other", "a")


def test_items_are_found_among_their_owners_only() -> None:
    keep(kept("a", provider="openai", native=True))
    assert responses.find_items("ci", ["msg_a", "in_a"]).keys() == {"msg_a", "in_a"}
    assert responses.find_items("other", ["msg_a"]) == {}
    assert responses.providers_of_items("ci", ["msg_a"]) == {"msg_a": "openai"}
    assert responses.providers_of_items("other", ["msg_a"]) == {}


def test_what_a_translated_response_says_has_no_maker() -> None:
    keep(kept("a", provider="scripted"))
    assert responses.providers_of_items("ci", ["msg_a"]) == {}


def test_one_item_in_two_places_of_a_response_is_kept_once() -> None:
    twice = {"id": "msg_twice", "type": "message", "role": "assistant", "content": []}
    keep(kept("a", body={"output": [twice, twice]}))
    keep(kept("b", body={"output": [twice]}))
    assert StoredItem.objects.filter(item_id="msg_twice").count() == 1


@pytest.mark.parametrize(
    "output", [None, "x", 5, [None, 5, "x"], [{}], [{"id": 5}], [{"id": "\0"}]]
)
def test_whatever_an_upstream_calls_output_is_stored(output: Any) -> None:
    keep(kept("a", body={"output": output, "status": {"odd": "\0"}}))
    assert find("ci", "a").status == "completed"
    assert find("ci", "a").read_items()


def test_a_response_without_a_usable_id_is_not_stored() -> None:
    for name in ("", "\0", "x" * 201, "a b"):
        assert not keep(kept(name))
    assert StoredResponse.objects.count() == 0


def background(name: str) -> Kept:
    return kept(name, background=True, body={"status": "queued", "output": []})


def test_a_cancelled_response_stays_so_whatever_its_task_brings() -> None:
    queue(background("a"))
    assert responses.begin("ci", "a")
    assert responses.still_wanted({("ci", "a")}) == {("ci", "a")}
    assert responses.cancel("ci", "a").status == "cancelled"
    assert responses.still_wanted({("ci", "a")}) == set()
    assert not keep(kept("a", background=True))
    assert find("ci", "a").read_body()["status"] == "cancelled"
    assert not responses.begin("ci", "a")


def test_a_deleted_response_does_not_come_back() -> None:
    queue(background("a"))
    responses.forget("ci", "a")
    assert responses.still_wanted({("ci", "a")}) == set()
    assert not keep(kept("a", background=True))
    assert StoredResponse.objects.count() == 0


def test_a_response_whose_worker_is_silent_has_failed() -> None:
    queue(background("a"))
    queue(background("b"))
    long_ago = timezone.now() - timedelta(seconds=responses.ABANDONED_AFTER_S + 1)
    StoredResponse.objects.filter(response_id="a").update(heartbeat_at=long_ago)
    found = find("ci", "a")
    assert found.read_body()["error"]["code"] == "server_error"
    assert found.status == "failed"
    assert find("ci", "b").status == "queued"


def test_a_sign_of_life_keeps_it_alive() -> None:
    queue(background("a"))
    nearly = timezone.now() - timedelta(seconds=responses.ABANDONED_AFTER_S - 1)
    StoredResponse.objects.update(heartbeat_at=nearly)
    responses.still_wanted({("ci", "a")})
    assert StoredResponse.objects.get().heartbeat_at > nearly  # type: ignore[operator]


def test_a_worker_taken_for_dead_may_still_bring_its_answer() -> None:
    queue(background("a"))
    StoredResponse.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    assert responses.fail_abandoned() == 1
    assert keep(kept("a", background=True))
    assert find("ci", "a").status == "completed"


def test_what_is_old_is_forgotten_with_its_items() -> None:
    keep(kept("old"))
    responses.note_items("ci", [{"id": "rs_loose"}], provider="openai")
    past = timezone.now() - timedelta(days=responses.KEPT_DAYS + 1)
    StoredResponse.objects.update(created_at=past)
    StoredItem.objects.update(created_at=past)
    keep(kept("new"))
    responses.forget_old()
    assert names(list(StoredResponse.objects.all())) == ["new"]
    assert set(StoredItem.objects.values_list("item_id", flat=True)) == {"in_new", "msg_new"}
