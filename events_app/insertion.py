"""Puts events into their table: each once, and visible in the order of their ids.

A reader of live events remembers the last id it has seen and asks for what is behind it. That is
right only if no row with a smaller id can appear later. An id is drawn before its transaction
commits, so two that overlap could commit the other way round; hence one transaction at a time may
insert events:

- on SQLite because there is one writer at a time anyway (transactions begin immediately);
- on Postgres because each takes the same advisory lock before it draws its first id. The lock goes
  with the transaction, after its rows have become visible.

A reader then needs no waiting time and no look at what is in flight. Ids that are skipped (drawn
for a row that was there already, or by a transaction that was rolled back) never come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from operator import attrgetter, gt
from typing import Any

import msgspec
from django.db import IntegrityError, connection, transaction
from django.db.models import CharField

from events_app.lines import EventLine
from events_app.models import Event

# Whoever waits for the lock gives up before the journal could notice; whoever holds it and does
# not go on (a stopped process, a cut network) loses it with its session.
_TAKE_LOCK = (
    "SET LOCAL lock_timeout = '5s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '10s'; "
    "SELECT pg_advisory_xact_lock(4702611093271534)"
)
_TEXTS = ("type", "request_id", "key", "session_id", "provider", "model")
_NAMES = ("line", "created_at", "fields", *_TEXTS)


def insert(lines: Sequence[EventLine]) -> None:
    """Inserts the events that are not there yet, in one transaction and in their order. Raises
    django.db.Error and ValueError."""
    if not lines:
        return
    on_postgres = connection.vendor == "postgresql"
    moment = _as_datetime if on_postgres else _as_text
    rows = [(line.id, moment(line.at), _fields(line), *_fitting(line)) for line in lines]
    if not on_postgres:
        with transaction.atomic(), connection.wrap_database_errors:
            _insert_at_once(rows)
        return
    try:
        with transaction.atomic(), connection.wrap_database_errors:
            _copy(rows)
    except IntegrityError:
        # Some are there already: lines come again when their worker died after the commit, or
        # began a new segment.
        with transaction.atomic(), connection.wrap_database_errors:
            _insert_missing(rows)


def _copy(rows: Sequence[tuple[Any, ...]]) -> None:
    """A third of the time of an INSERT there, which COPY cannot do: it knows no ON CONFLICT."""
    raw = connection.connection
    raw.execute(_TAKE_LOCK)
    with raw.cursor() as cursor, cursor.copy(_COPY) as copy:
        for row in rows:
            copy.write_row(row)


def _insert_missing(rows: Sequence[tuple[Any, ...]]) -> None:
    raw = connection.connection
    raw.execute(_TAKE_LOCK)
    raw.execute(_FROM_ARRAYS, [list(column) for column in zip(*rows, strict=True)])


def _insert_at_once(rows: Sequence[tuple[Any, ...]]) -> None:
    """Past Django's cursor and many rows a statement, as `usage.insertion` has it and why."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        statement = f"{_INTO} VALUES {', '.join([_MARKS] * len(part))} {_ONCE}"
        connection.connection.execute(statement, list(chain.from_iterable(part)))


def _as_datetime(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _as_text(at: float) -> str:
    """What Django makes of a moment for SQLite, at a quarter of the cost."""
    second, microseconds = divmod(round(at * 1_000_000), 1_000_000)
    return f"{_second(second)}.{microseconds:06d}" if microseconds else _second(second)


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return str(connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(second, UTC)))


def _fitting(line: EventLine) -> tuple[str, ...]:
    """The texts within their columns' bounds. Postgres takes no NUL in a text."""
    texts: tuple[str, ...] = _texts(line)
    if any(map(gt, map(len, texts), _LENGTHS)) or "\0" in "".join(texts):
        pairs = zip(texts, _LENGTHS, strict=True)
        return tuple(text.replace("\0", "")[:length] for text, length in pairs)
    return texts


def _fields(line: EventLine) -> str:
    fields = _encoder.encode(line.fields)
    if rb"\u0000" in fields:
        fields = _encoder.encode(_without_nul(line.fields))
    return fields.decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    return value


_texts = attrgetter(*_TEXTS)
_encoder = msgspec.json.Encoder(decimal_format="number")
_LENGTHS = tuple(
    field.max_length or 0
    for name in _TEXTS
    if isinstance(field := Event._meta.get_field(name), CharField)
)
_COLUMNS = ", ".join(f'"{name}"' for name in _NAMES)
_INTO = f'INSERT INTO "{Event._meta.db_table}" ({_COLUMNS})'
_COPY = f"COPY {_INTO.removeprefix('INSERT INTO ')} FROM STDIN"
_ONCE = 'ON CONFLICT ("line", "type") DO NOTHING'
_MARKS = f"({', '.join('?' * len(_NAMES))})"
_ROWS_AT_ONCE = 32_000 // len(_NAMES)
"""SQLite takes 32,766 parameters a statement."""
_ARRAYS = ", ".join(
    ("%s::uuid[]", "%s::timestamptz[]", "%s::jsonb[]", *["%s::text[]"] * len(_TEXTS))
)
_FROM_ARRAYS = f"{_INTO} SELECT * FROM unnest({_ARRAYS}) {_ONCE}"
