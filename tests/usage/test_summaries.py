"""Questions to the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from chat.types import TokenCounts
from tests.usage.requests import NOON, closed
from usage import summaries
from usage.insertion import record
from usage.summaries import GROUPS, Wanted, records, summary

pytestmark = pytest.mark.django_db(transaction=True)

AT_NOON = datetime.fromtimestamp(NOON, UTC)
HOUR = 3600


def ids(owner: str | None = None, **wanted: Any) -> list[str]:
    page = records(owner, Wanted(**wanted), limit=1000)
    return [row.request_id for row in page.records]


def test_records_come_newest_first() -> None:
    record([closed(request_id=str(n), created_at=NOON + n) for n in (2, 3, 1)])
    assert ids() == ["3", "2", "1"]


def test_pages_hold_every_record_once_though_times_are_equal() -> None:
    record([closed(request_id=str(n), created_at=NOON + n // 4) for n in range(23)])
    seen: list[str] = []
    after = None
    while True:
        page = records(None, Wanted(), limit=5, after=after)
        seen += [row.request_id for row in page.records]
        after = page.next_cursor
        if after is None:
            break
    assert seen == ids()
    assert len(set(seen)) == 23


def test_a_full_last_page_has_no_next() -> None:
    record([closed() for _ in range(5)])
    assert records(None, Wanted(), limit=5).next_cursor is None


def test_a_record_that_arrives_between_two_pages_moves_none_of_them() -> None:
    record([closed(request_id=str(n), created_at=NOON + n) for n in range(4)])
    first = records(None, Wanted(), limit=2)
    record([closed(request_id="late", created_at=NOON + 9)])
    second = records(None, Wanted(), limit=2, after=first.next_cursor)
    assert [row.request_id for row in second.records] == ["1", "0"]


@pytest.mark.parametrize("cursor", ["", "!", "eA", "MS4y", "é", "OTk5OTk5OTk5OTk5OTk5OTk5OTkuMQ"])
def test_what_is_no_cursor_is_told_so(cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        records(None, Wanted(), limit=5, after=cursor)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"key": "b"}, ["2"]),
        ({"model": "m"}, ["3"]),
        ({"provider": "p"}, ["4"]),
        ({"session_id": "s"}, ["5"]),
        ({"request_id": "1"}, ["1"]),
        ({"status": "error"}, ["6"]),
        ({"since": AT_NOON + timedelta(seconds=6)}, ["6"]),
        ({"until": AT_NOON + timedelta(seconds=2)}, ["1"]),
        ({"key": "b", "model": "m"}, []),
    ],
)
def test_conditions_narrow_the_list(wanted: dict[str, Any], expected: list[str]) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"key": "b"},
        {"model": "m"},
        {"provider": "p"},
        {"session_id": "s"},
        {"status": "error"},
    ]
    numbered = enumerate(changes, start=1)
    record([closed(request_id=str(n), created_at=NOON + n, **some) for n, some in numbered])
    assert ids(**wanted) == expected


def test_an_owner_sees_its_own_rows_only() -> None:
    record([closed(key=key, session_id="s", request_id=key) for key in ("a", "b")])
    assert ids("a") == ["a"]
    assert ids("a", key="b") == []
    for by in GROUPS:
        assert summary("a", Wanted(), by=by)["total"]["requests"] == 1
        assert summary("a", Wanted(key="b"), by=by)["data"] == []


def some_requests() -> None:
    record(
        [
            closed(key="a", model="m", created_at=NOON, session_id="s"),
            closed(key="b", model="m", created_at=NOON + HOUR, session_id="s", status="error"),
            closed(key="b", model="n", created_at=NOON + 13 * HOUR, price=None),
            closed(key="b", model="n", created_at=NOON + 13 * HOUR + 59, session_id="t"),
        ]
    )


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("day", [("2026-11-24", 2), ("2026-11-23", 2)]),
        (
            "hour",
            [("2026-11-24T01:00:00Z", 2), ("2026-11-23T13:00:00Z", 1), ("2026-11-23T12:00:00Z", 1)],
        ),
        ("model", [("m", 2), ("n", 2)]),
        ("key", [("b", 3), ("a", 1)]),
        ("provider", [("openai", 4)]),
        ("session", [("s", 1), ("s", 1), ("t", 1)]),
    ],
)
def test_totals_are_grouped(by: str, expected: list[tuple[str, int]]) -> None:
    some_requests()
    groups = summary(None, Wanted(), by=by)["data"]
    assert [(group[by], group["requests"]) for group in groups] == expected


def test_a_group_tells_counts_tokens_and_exact_money() -> None:
    some_requests()
    answer = summary(None, Wanted(), by="key")
    assert answer["data"][0] == {
        "key": "b",
        "requests": 3,
        "failures": 1,
        "unpriced_requests": 1,
        "tokens_input": 3000,
        "tokens_output": 300,
        "tokens_cached": 1200,
        "cost_usd": "0.00036",
    }
    assert answer["total"]["cost_usd"] == "0.00054"
    assert answer["has_more"] is False


def test_two_keys_sessions_of_one_id_are_two() -> None:
    some_requests()
    groups = summary(None, Wanted(), by="session")["data"]
    assert {(group["session"], group["key"]) for group in groups} == {
        ("s", "a"),
        ("s", "b"),
        ("t", "b"),
    }


def test_sessions_add_up_failures_and_unpriced_requests_too() -> None:
    some_requests()
    record([closed(session_id="s", key="b", price=None)])
    total = summary("b", Wanted(session_id="s"), by="session")["total"]
    assert (total["requests"], total["failures"], total["unpriced_requests"]) == (2, 1, 1)


def test_a_summary_begins_with_the_whole_hour_of_since() -> None:
    some_requests()
    late = Wanted(since=AT_NOON + timedelta(hours=1, minutes=30))
    assert summary(None, late, by="day")["total"]["requests"] == 3


def test_a_day_ends_before_until() -> None:
    some_requests()
    day = Wanted(since=AT_NOON.replace(hour=0), until=AT_NOON.replace(hour=0) + timedelta(days=1))
    assert summary(None, day, by="day")["total"]["requests"] == 2


def test_money_is_added_up_to_the_last_digit() -> None:
    pico = [closed(counts=TokenCounts(input=n), key=str(n)) for n in (10**9, 1, 10**9 - 7)]
    record(pico)
    total = summary(None, Wanted(), by="key")["total"]
    assert Decimal(total["cost_usd"]) == Decimal(2 * 10**9 - 6) * Decimal("0.15") / 1_000_000


def test_an_empty_ledger_has_totals_of_nothing() -> None:
    for by in GROUPS:
        answer = summary(None, Wanted(), by=by)
        assert answer["data"] == []
        assert (answer["total"]["requests"], answer["total"]["cost_usd"]) == (0, "0")


def test_the_total_counts_groups_beyond_the_last_one_told(monkeypatch: pytest.MonkeyPatch) -> None:
    some_requests()
    whole = summary(None, Wanted(), by="hour")
    monkeypatch.setattr(summaries, "MAX_GROUPS", 2)
    cut = summary(None, Wanted(), by="hour")
    assert cut == whole | {"data": whole["data"][:2], "has_more": True}
