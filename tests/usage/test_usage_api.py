"""`GET /v1/usage` and `GET /v1/usage/summary`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from asgiref.sync import async_to_sync

from gateway_api.native import usage as usage_views
from gateway_site.asgi_handler import LeanASGIHandler
from keys.models import VirtualKey
from keys.ring import ring
from tests.usage.requests import NOON, closed
from usage.insertion import record

pytestmark = pytest.mark.django_db(transaction=True)

SECRETS = {name: f"gw-test-{name}-0123456789abcdef0123456789" for name in ("alice", "bob", "root")}


@pytest.fixture(autouse=True)
def keys() -> Iterator[None]:
    for name, secret in SECRETS.items():
        key = VirtualKey(name=name, admin=name == "root")
        key.set_secret(secret)
        key.save()
    ring.forget()
    yield
    ring.forget()


@async_to_sync
async def ask(path: str, *, key: str | None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {SECRETS[key]}"} if key else {}
    handler: Any = LeanASGIHandler()
    transport = httpx2.ASGITransport(app=handler)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(path, headers=headers)


def get(path: str, *, key: str | None = "root", **query: Any) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    response = ask(f"{path}?{urlencode(query)}", key=key)
    return response.status_code, response.json()


def rows(**query: Any) -> list[dict[str, Any]]:
    status, answer = get("/v1/usage", **query)
    assert status == 200, answer
    found: list[dict[str, Any]] = answer["data"]
    return found


def table(path: str = "/v1/usage", *, key: str = "root", **query: Any) -> list[list[str]]:
    response = ask(f"{path}?{urlencode({**query, 'format': 'csv'})}", key=key)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(response.text, newline="")))


def test_a_row_has_the_contracts_fields() -> None:
    record([closed(key="alice", route="smart", request_id="r-1")])
    assert get("/v1/usage")[1] == {
        "object": "list",
        "data": [
            {
                "request_id": "r-1",
                "created_at": "2026-11-23T12:00:00Z",
                "key": "alice",
                "session_id": None,
                "route": "smart",
                "provider": "openai",
                "model": "openai/gpt-4o-mini",
                "upstream_model": "gpt-4o-mini",
                "wire": "openai",
                "endpoint": "chat.completions",
                "stream": True,
                "status": "success",
                "error_code": None,
                "finish_reason": "stop",
                "attempts": 1,
                "tokens_input": 1000,
                "tokens_output": 100,
                "tokens_cached": 400,
                "tokens_cache_write": 0,
                "tokens_reasoning": 0,
                "cost_usd": "0.00018",
                "estimated": False,
                "duration_ms": 0,
                "time_to_first_token_ms": None,
            }
        ],
        "has_more": False,
        "next_cursor": None,
    }


def test_an_unknown_price_is_null() -> None:
    """M22"""
    record([closed(price=None)])
    assert rows()[0]["cost_usd"] is None


def test_pages_follow_one_another() -> None:
    record([closed(request_id=str(n), created_at=NOON + n) for n in range(5)])
    _, first = get("/v1/usage", limit=3)
    assert first["has_more"] is True
    _, second = get("/v1/usage", limit=3, after=first["next_cursor"])
    assert [row["request_id"] for row in first["data"] + second["data"]] == list("43210")
    assert second["next_cursor"] is None


def test_a_key_sees_its_own_rows_and_an_admin_all() -> None:
    record([closed(key="alice"), closed(key="bob")])
    assert [row["key"] for row in rows(key="alice")] == ["alice"]
    assert len(rows()) == 2


def test_a_key_cannot_ask_for_anothers_rows() -> None:
    record([closed(key="bob", session_id="s")])
    for path in ("/v1/usage?key=bob", "/v1/usage?session_id=s", "/v1/usage/summary?key=bob"):
        assert ask(path, key="alice").json()["data"] == []


def test_an_admin_can_ask_for_one_keys_rows() -> None:
    record([closed(key="alice"), closed(key="bob")])
    answer = ask("/v1/usage?key=bob", key="root").json()
    assert [row["key"] for row in answer["data"]] == ["bob"]


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/usage/summary"])
def test_nobody_without_a_key_sees_anything(path: str) -> None:
    assert get(path, key=None)[0] == 401


@pytest.mark.parametrize(
    ("path", "param", "value"),
    [
        ("/v1/usage", "limit", "0"),
        ("/v1/usage", "limit", "1001"),
        ("/v1/usage", "limit", "ten"),
        ("/v1/usage", "limit", "١"),
        ("/v1/usage", "after", "x"),
        ("/v1/usage", "since", "yesterday"),
        ("/v1/usage", "since", "2026-02-30T00:00:00Z"),
        ("/v1/usage", "since", "2026-01-01T00:00:00"),
        ("/v1/usage", "until", "0001-01-01T00:00:00+23:00"),
        ("/v1/usage", "until", "2026-W01"),
        ("/v1/usage", "status", "fine"),
        ("/v1/usage", "format", "xml"),
        ("/v1/usage", "model", "a\0b"),
        ("/v1/usage", "request_id", "r" * 301),
        ("/v1/usage/summary", "by", "colour"),
        ("/v1/usage/summary", "status", "error"),
        ("/v1/usage/summary", "request_id", "r"),
        ("/v1/usage/summary", "session_id", "s"),
        ("/v1/usage/summary", "until", "now"),
    ],
)
def test_a_bad_parameter_is_named(path: str, param: str, value: str) -> None:
    status, answer = get(path, **{param: value})
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "since",
    [
        "2026-11-23T12:00:00Z",
        "2026-11-23t12:00:00z",
        "2026-11-23T13:00:00+01:00",
        "2026-11-23T12:00:00.000000000Z",
        "2026-11-23",
    ],
)
def test_a_time_may_have_any_form_of_rfc_3339_or_be_a_day(since: str) -> None:
    record([closed()])
    assert len(rows(since=since)) == 1


def test_a_plus_that_came_as_a_space_is_still_an_offset() -> None:
    record([closed()])
    answer = ask("/v1/usage?since=2026-11-23T12:00:00+00:00", key="root").json()
    assert len(answer["data"]) == 1


def test_a_summary_is_by_day_unless_asked_otherwise() -> None:
    record([closed()])
    _, answer = get("/v1/usage/summary")
    totals = {
        "requests": 1,
        "failures": 0,
        "tokens_input": 1000,
        "tokens_output": 100,
        "tokens_cached": 400,
        "cost_usd": "0.00018",
        "unpriced_requests": 0,
    }
    assert answer["data"] == [{"day": "2026-11-23", **totals}]
    assert answer["total"] == totals


def test_csv_holds_every_record_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_views, "MAX_PAGE", 4)
    record([closed(request_id=str(n), created_at=NOON + n) for n in range(11)])
    header, *found = table()
    assert tuple(header) == usage_views.COLUMNS
    assert [row[0] for row in found] == [str(n) for n in reversed(range(11))]


def test_csv_keeps_to_a_limit() -> None:
    record([closed() for _ in range(5)])
    assert len(table(limit=3)) == 4


def test_csv_of_an_empty_ledger_has_its_header() -> None:
    assert table() == [list(usage_views.COLUMNS)]
    assert table("/v1/usage/summary")[0][0] == "day"


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_csv_hands_no_formula_to_a_spreadsheet(formula: str) -> None:
    record([closed(model=formula)])
    header, row = table()
    assert row[header.index("model")] == f"'{formula}"
    assert row[header.index("cost_usd")] == "0.00018"
    header, row = table("/v1/usage/summary", by="model")
    assert row[0] == f"'{formula}"


def test_csv_shows_what_is_unknown_as_empty() -> None:
    record([closed(price=None)])
    header, row = table()
    assert row[header.index("cost_usd")] == ""
    assert row[header.index("stream")] == "true"


def test_csv_of_a_key_holds_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_views, "MAX_PAGE", 2)
    record([closed(key=key) for key in ("alice", "bob") * 4])
    header, *found = table(key="alice")
    assert [row[header.index("key")] for row in found] == ["alice"] * 4
