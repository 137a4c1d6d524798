"""`GET /v1/usage` and `GET /v1/usage/summary`: what the ledger tells its keys."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime
from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request

from chat.errors import InvalidRequest
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.openai.schema import ERROR_RESPONSES
from gateway_api.schemas import only
from keys.caller import Caller
from providers.database import in_database
from usage.fields import usd_text
from usage.models import Status, UsageRecord
from usage.summaries import GROUPS, MAX_PAGE, Page, Wanted, records, rfc3339, summary

DEFAULT_PAGE = 100
MAX_TEXT = 300
CSV = "text/csv; charset=utf-8"
FORMATS = ("json", "csv")
TEXTS = ("key", "model", "provider", "session_id", "request_id")

_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
_RFC3339 = re.compile(rf"{_DATE}(T{_TIME})?", re.IGNORECASE | re.ASCII)

COLUMNS = (
    *("request_id", "created_at", "key", "session_id", "route", "provider", "model"),
    *("upstream_model", "wire", "endpoint", "stream", "status", "error_code", "finish_reason"),
    *("attempts", "tokens_input", "tokens_output", "tokens_cached", "tokens_cache_write"),
    *("tokens_reasoning", "cost_usd", "estimated", "duration_ms", "time_to_first_token_ms"),
)


def _text_parameter(name: str, description: str, **options: Any) -> OpenApiParameter:
    return OpenApiParameter(name, str, description=description, **options)


_TIMES = [
    _text_parameter("since", "RFC 3339; included."),
    _text_parameter("until", "RFC 3339; not included."),
]
_NAMES = [
    _text_parameter("model", "The public name asked for."),
    _text_parameter("provider", "The provider that served."),
    _text_parameter("key", "A key's name; an ordinary key sees only its own rows."),
]
_FORMAT = _text_parameter("format", "`csv` for a spreadsheet.", enum=FORMATS)
_MONEY = {"type": ["string", "null"], "description": "US dollars; null: price unknown."}
_COUNT = {"type": "integer"}
_TEXT = {"type": ["string", "null"]}
_ROW = {
    "type": "object",
    "properties": {
        **dict.fromkeys(COLUMNS, _TEXT),
        **{name: _COUNT for name in COLUMNS if name.startswith(("attempts", "tokens_"))},
        **dict.fromkeys(("stream", "estimated"), {"type": "boolean"}),
        "cost_usd": _MONEY,
        "duration_ms": _COUNT,
        "time_to_first_token_ms": {"type": ["integer", "null"]},
    },
}
_ERRORS = only(ERROR_RESPONSES, 400, 401, 503)
_LIST = {
    "type": "object",
    "properties": {
        "object": {"type": "string", "enum": ["list"]},
        "data": {"type": "array", "items": _ROW},
        "has_more": {"type": "boolean"},
        "next_cursor": {"type": ["string", "null"]},
    },
}
_TOTAL = {
    "type": "object",
    "properties": {
        "requests": _COUNT,
        "failures": _COUNT,
        "tokens_input": _COUNT,
        "tokens_output": _COUNT,
        "tokens_cached": _COUNT,
        "cost_usd": _MONEY,
        "unpriced_requests": _COUNT,
    },
}
_SUMMARY = {
    "type": "object",
    "properties": {
        "data": {"type": "array", "items": _TOTAL},
        "total": _TOTAL,
        "has_more": {"type": "boolean"},
    },
}


class UsageView(AsyncAPIView):
    """The caller's own requests, newest first; an admin's answer holds everyone's."""

    @extend_schema(
        operation_id="list_usage",
        summary="Usage records",
        description="With `format=csv` and without `limit`, every matching record.",
        parameters=[
            OpenApiParameter("limit", int, description=f"1 to {MAX_PAGE}; {DEFAULT_PAGE}."),
            _text_parameter("after", "The `next_cursor` of the page before."),
            *_TIMES,
            *_NAMES,
            _text_parameter("session_id", "A session."),
            _text_parameter("request_id", "The value of `x-request-id`."),
            _text_parameter("status", "How it ended.", enum=Status.values),
            _FORMAT,
        ],
        responses={(200, "application/json"): _LIST, (200, "text/csv"): str, **_ERRORS},
        tags=["Operations"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        query = request.query_params
        wanted, limit = read_wanted(query), _read_limit(query)
        owner, after = visible_to(self.caller), _read_text(query, "after")
        as_csv = _read_choice(query, "format", FORMATS) == "csv"
        try:
            page = await in_database(
                records,
                owner,
                wanted,
                limit=limit or (MAX_PAGE if as_csv else DEFAULT_PAGE),
                after=after,
            )
        except ValueError:
            raise InvalidRequest("`after` is not a cursor of this list.", param="after") from None
        if not as_csv:
            return json_answer(_as_list(page))
        if limit or page.next_cursor is None or request.method == "HEAD":
            return _csv_answer(_csv(_cells(page), header=COLUMNS), "usage.csv")
        return StreamAnswer(
            _csv(_cells(page), header=COLUMNS),
            _csv_pages(owner, wanted, after=page.next_cursor),
            content_type=CSV,
            headers=[_attachment("usage.csv")],
        )


class UsageSummaryView(AsyncAPIView):
    """Totals of the caller's own requests; an admin's answer holds everyone's."""

    @extend_schema(
        operation_id="summarise_usage",
        summary="Usage totals",
        description="Totals of whole hours, UTC; of exact times only by session.",
        parameters=[_text_parameter("by", "Default: day.", enum=GROUPS), *_TIMES, *_NAMES, _FORMAT],
        responses={(200, "application/json"): _SUMMARY, (200, "text/csv"): str, **_ERRORS},
        tags=["Operations"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        query = request.query_params
        by = _read_choice(query, "by", GROUPS) or "day"
        for name in ("request_id", "status", *(() if by == "session" else ("session_id",))):
            if name in query:  # the totals know nothing of it: its absence would be a wrong answer
                raise InvalidRequest(f"A summary cannot be narrowed by `{name}`.", param=name)
        as_csv = _read_choice(query, "format", FORMATS) == "csv"
        owner, wanted = visible_to(self.caller), read_wanted(query)
        totals = await in_database(summary, owner, wanted, by=by)
        if not as_csv:
            return json_answer(totals)
        rows = totals["data"]
        header = list(rows[0]) if rows else [by, *totals["total"]]
        return _csv_answer(_csv((row.values() for row in rows), header=header), "usage-summary.csv")


def visible_to(caller: Caller) -> str | None:
    """Whose rows a caller may see: a key's name, or None for everyone's."""
    return None if caller.is_admin else caller.name


# --- parameters -------------------------------------------------------------------------------


def read_wanted(query: QueryDict) -> Wanted:
    """Raises InvalidRequest that names the parameter."""
    return Wanted(
        since=_read_time(query, "since"),
        until=_read_time(query, "until"),
        status=_read_choice(query, "status", Status.values),
        **{name: _read_text(query, name) for name in TEXTS},
    )


def _read_text(query: QueryDict, name: str) -> str | None:
    value = query.get(name)
    if value is not None and (len(value) > MAX_TEXT or "\0" in value):
        raise InvalidRequest(f"`{name}` is not a name the ledger could hold.", param=name)
    return value


def _read_choice(query: QueryDict, name: str, allowed: Iterable[str]) -> str | None:
    value = query.get(name)
    if value is not None and value not in allowed:
        raise InvalidRequest(f"`{name}` must be one of {', '.join(allowed)}.", param=name)
    return value


def _read_limit(query: QueryDict) -> int | None:
    value = query.get("limit")
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", value) or not 1 <= int(value) <= MAX_PAGE:
        raise InvalidRequest(f"`limit` must be a number from 1 to {MAX_PAGE}.", param="limit")
    return int(value)


def _read_time(query: QueryDict, name: str) -> datetime | None:
    """A date alone is its midnight, UTC. A `+` left unescaped in an address arrives as a space."""
    value = query.get(name)
    if value is None:
        return None
    try:
        if not _RFC3339.fullmatch(text := value.replace(" ", "+").upper()):
            raise ValueError
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"`{name}` must be a time as in RFC 3339, such as 2026-01-31T00:00:00Z.", param=name
        ) from None


# --- answers ----------------------------------------------------------------------------------


def as_row(record: UsageRecord) -> dict[str, Any]:
    """A record as the API tells it; what does not apply is null."""
    row = {name: getattr(record, name) for name in COLUMNS}
    for name in ("session_id", "route", "error_code", "finish_reason"):
        row[name] = row[name] or None
    return row | {
        "created_at": rfc3339(record.created_at),
        "cost_usd": usd_text(record.cost_usd),
    }


def _as_list(page: Page) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [as_row(record) for record in page.records],
        "has_more": page.next_cursor is not None,
        "next_cursor": page.next_cursor,
    }


def _cells(page: Page) -> Iterable[Iterable[Any]]:
    return (as_row(record).values() for record in page.records)


async def _csv_pages(owner: str | None, wanted: Wanted, *, after: str) -> AsyncGenerator[bytes]:
    """The pages behind the first; between two of them no database connection is held."""
    cursor: str | None = after
    while cursor is not None:
        page = await in_database(records, owner, wanted, limit=MAX_PAGE, after=cursor)
        cursor = page.next_cursor
        yield _csv(_cells(page))


def _csv(rows: Iterable[Iterable[Any]], *, header: Iterable[str] = ()) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if header:
        writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """A spreadsheet runs a text that begins like a formula, and callers choose some of ours."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _csv_answer(body: bytes, name: str) -> Answer:
    return Answer(body, content_type=CSV, headers=[_attachment(name)])


def _attachment(name: str) -> tuple[str, str]:
    return ("content-disposition", f'attachment; filename="{name}"')
