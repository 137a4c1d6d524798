"""Puts closed requests into the ledger's tables: each once, with its share of the hourly totals and
on its session's bill."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from operator import attrgetter, gt
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import CharField, DecimalField, Model

from sessions_app import bills
from sessions_app.bills import Bill
from usage.lines import Closed
from usage.models import FAILURES, HourlyUsage, UsageRecord
from usage.pricing import UnitPrices

MAX_TOKENS = 10**9
"""Beyond any model's window. An upstream that reports more is wrong, and sums must not overflow."""
MAX_ATTEMPTS = 2**15 - 1
MAX_MILLISECONDS = 2**31 - 1

TOKENS = (
    "tokens_input",
    "tokens_output",
    "tokens_cached",
    "tokens_cache_write",
    "tokens_reasoning",
)
_SAME = (
    *("request_id", "key", "session_id", "route", "model", "provider", "upstream_model"),
    *("wire", "endpoint", "stream", "status", "error_code", "finish_reason", "attempts"),
    *(*TOKENS, "estimated", "duration_ms", "time_to_first_token_ms", "worker"),
)
"""What a record and a line call the same."""

_PRICES = ("price_input", "price_output", "price_cached_input", "price_cache_write")
_GROUP = ("hour", "key", "provider", "model")
_TOTALS = ("requests", "failures", "unpriced_requests", *TOKENS, "cost_usd")


def record(lines: Iterable[Closed]) -> int:
    """Inserts the records that are not there yet, and adds those to the hourly totals and to their
    sessions' bills, in one transaction; returns how many. Raises django.db.Error, ArithmeticError
    or ValueError."""
    closed = {line.id: line for line in lines}
    for line in closed.values():
        _fit(line)
    # Turns of sessions enter their lines themselves.
    _leave_known(closed, [line.id for line in closed.values() if line.session_id])
    try:
        with transaction.atomic():
            _insert(list(closed.values()))
    except IntegrityError:
        # Some are there already: a batch comes again when its worker died after the commit. To ask
        # first every time would be another statement each half second for that one time.
        with transaction.atomic():
            _leave_known(closed, list(closed))
            _insert(list(closed.values()))
    return len(closed)


def _leave_known(closed: dict[str, Closed], ids: Sequence[str]) -> None:
    """Takes out what of these ids is in the ledger already."""
    if ids:
        for id_ in UsageRecord.objects.filter(id__in=ids).values_list("id", flat=True):
            del closed[id_.hex]


def _insert(lines: Sequence[Closed]) -> None:
    if not lines:
        return
    rows = _rows(lines)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            _copy(cursor, rows)
        else:
            _insert_at_once(rows)
        cursor.executemany(_UPSERT, _totals(lines))
    bills.add(_bills(lines))


def _insert_at_once(rows: Sequence[tuple[Any, ...]]) -> None:
    """Many rows a statement, past Django's cursor.

    Each statement gives the interpreter's lock away once and waits to get it back; `executemany`
    does so for every row, and a loop that was serving 1,800 requests a second spent more time
    handing the lock over than serving. Django's cursor would rewrite a statement of 30,000 places
    with a pattern, under that lock, for half of what SQLite takes to run it.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            statement = f"{_INTO} VALUES {', '.join([_MARKS] * len(part))}"
            connection.connection.execute(statement, list(chain.from_iterable(part)))


def _copy(cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    """A fifth of the time of `executemany` there. Django knows no COPY, so its errors are made
    Django's here."""
    with connection.wrap_database_errors, cursor.copy(_COPY) as copy:
        for row in rows:
            copy.write_row(row)


def _fit(line: Closed) -> None:
    """Brings a line into its columns' bounds. Postgres takes no NUL in a text."""
    if not _ID.fullmatch(line.id):
        line.id = UUID(line.id).hex
    texts = _texts(line)
    if any(map(gt, map(len, texts), _LENGTHS)) or "\0" in "".join(texts):
        for name, text, length in zip(_TEXTS, texts, _LENGTHS, strict=True):
            setattr(line, name, text.replace("\0", "")[:length])
    tokens = _tokens(line)
    if min(tokens) < 0 or max(tokens) > MAX_TOKENS:
        for name, number in zip(TOKENS, tokens, strict=True):
            setattr(line, name, _between(number, MAX_TOKENS))
    if not 0 <= line.attempts <= MAX_ATTEMPTS:
        line.attempts = _between(line.attempts, MAX_ATTEMPTS)
    if not 0 <= line.duration_ms <= MAX_MILLISECONDS:
        line.duration_ms = _between(line.duration_ms, MAX_MILLISECONDS)
    first = line.time_to_first_token_ms
    if first is not None and not 0 <= first <= MAX_MILLISECONDS:
        line.time_to_first_token_ms = _between(first, MAX_MILLISECONDS)


def _between(number: int, most: int) -> int:
    return min(max(number, 0), most)


def _rows(lines: Iterable[Closed]) -> list[tuple[Any, ...]]:
    """Rows in the order of _RECORD."""
    moment = _as_datetime if connection.vendor == "postgresql" else _as_text
    return [
        (
            line.id,
            moment(line.created_at),
            line.cost_picodollars,
            *_price(line.price),
            *_same(line),
        )
        for line in lines
    ]


def _as_datetime(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _as_text(at: float) -> str:
    """What Django makes of a moment for SQLite, at a quarter of the cost: rows come by the thousand
    within a few seconds."""
    second, microseconds = divmod(round(at * 1_000_000), 1_000_000)
    return f"{_second(second)}.{microseconds:06d}" if microseconds else _second(second)


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return str(connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(second, UTC)))


@lru_cache(maxsize=1024)
def _price(prices: UnitPrices | None) -> tuple[Any, ...]:
    """Source and unit prices as the database takes them."""
    if prices is None:
        return ("", None, None, None, None)
    amounts = (prices.input, prices.output, prices.cached_input, prices.cache_write)
    digits, places = _AMOUNT.max_digits, _AMOUNT.decimal_places
    adapt = connection.ops.adapt_decimalfield_value
    return (prices.source[:_SOURCE_LENGTH], *(adapt(amount, digits, places) for amount in amounts))


def _totals(lines: Sequence[Closed]) -> list[tuple[Any, ...]]:
    """What the lines add to each hour, sorted, so that two workers that add to the same rows take
    them in one order and never wait for each other in a ring."""
    groups: dict[tuple[Any, ...], list[tuple[int, ...]]] = {}
    for line in lines:
        group = (line.created_at // 3600, line.key, line.provider, line.model)
        groups.setdefault(group, []).append(_share(line))
    moment = connection.ops.adapt_datetimefield_value
    return [
        (moment(_as_datetime(hour * 3600)), *rest, *map(sum, zip(*shares, strict=True)))
        for (hour, *rest), shares in sorted(groups.items())
    ]


def _share(line: Closed) -> tuple[int, ...]:
    """One request's part of the totals, in the order of _TOTALS."""
    return (
        1,
        line.status in FAILURES,
        line.cost_picodollars is None,
        *_tokens(line),
        line.cost_picodollars or 0,
    )


def _bills(lines: Iterable[Closed]) -> dict[tuple[str, str], Bill]:
    """What the lines add to their sessions."""
    groups: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for line in lines:
        if line.session_id:
            tokens, cost = line.tokens_input + line.tokens_output, line.cost_picodollars
            shares = groups.setdefault((line.key, line.session_id), [])
            shares.append((tokens, cost or 0, cost is None))
    return {
        session: Bill(*map(sum, zip(*shares, strict=True))) for session, shares in groups.items()
    }


def _columns(model: type[Model], names: Iterable[str]) -> list[str]:
    columns = {field.name: field.column for field in model._meta.concrete_fields}
    return [f'"{columns[name]}"' for name in names]


def _into(model: type[Model], names: Sequence[str]) -> str:
    return f'INSERT INTO "{model._meta.db_table}" ({", ".join(_columns(model, names))})'


def _upsertion() -> str:
    table = HourlyUsage._meta.db_table
    group = ", ".join(_columns(HourlyUsage, _GROUP))
    sums = ", ".join(f'{c} = "{table}".{c} + excluded.{c}' for c in _columns(HourlyUsage, _TOTALS))
    names = (*_GROUP, *_TOTALS)
    places = ", ".join(["%s"] * len(names))
    insertion = f"{_into(HourlyUsage, names)} VALUES ({places})"
    return f"{insertion} ON CONFLICT ({group}) DO UPDATE SET {sums}"


_same = attrgetter(*_SAME)
_tokens = attrgetter(*TOKENS)
_RECORD = ("id", "created_at", "cost_usd", "price_source", *_PRICES, *_SAME)
_INTO = _into(UsageRecord, _RECORD)
_MARKS = f"({', '.join('?' * len(_RECORD))})"
_ROWS_AT_ONCE = 32_000 // len(_RECORD)
"""SQLite takes 32,766 parameters a statement."""
_UPSERT = _upsertion()
_COPY = f"COPY {_INTO.removeprefix('INSERT INTO ')} FROM STDIN"
_LIMITS = {
    field.name: field.max_length or 0
    for field in UsageRecord._meta.concrete_fields
    if isinstance(field, CharField) and field.name in _SAME
}
_TEXTS = tuple(_LIMITS)
_LENGTHS = tuple(_LIMITS.values())
_ID = re.compile("[0-9a-f]{32}")
_texts = attrgetter(*_TEXTS)
_SOURCE_LENGTH = UsageRecord._meta.get_field("price_source").max_length
_AMOUNT: DecimalField[Any, Any] = UsageRecord._meta.get_field("price_input")
