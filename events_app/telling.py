"""Rows of the table of events as what a stream tells, and who may read which of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import orjson
from django.db import close_old_connections
from django.db.models import Max, QuerySet

from chat.sse import encode_event
from events_app.models import Event

PAGE = 500
"""Rows read at once."""
WINDOW = 50_000
"""Ids one query looks through for what a reader wants: nobody's rare event holds a connection for
as long as a week of rows takes."""
_NAMES = ("id", "type", "created_at", "request_id", "key", "session_id", "provider", "model")


T = TypeVar("T")


class Told(NamedTuple):
    """An event as it is sent, and what is asked of it before that."""

    id: int
    type: str
    key: str
    session_id: str
    request_id: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one reader is to be told. `owner` is the key whose events those are, None for
    everyone's; an empty filter takes everything."""

    owner: str | None = None
    types: frozenset[str] = frozenset()
    session_id: str = ""
    request_id: str = ""

    def takes(self, told: Told) -> bool:
        return (
            (self.owner is None or told.key == self.owner)
            and (not self.types or told.type in self.types)
            and (not self.session_id or told.session_id == self.session_id)
            and (not self.request_id or told.request_id == self.request_id)
        )

    def rows(self) -> QuerySet[Event]:
        """The same in the database's words."""
        found = Event.objects.all()
        if self.owner is not None:
            found = found.filter(key=self.owner)
        if self.types:
            found = found.filter(type__in=self.types)
        if self.session_id:
            found = found.filter(session_id=self.session_id)
        return found.filter(request_id=self.request_id) if self.request_id else found


EVERYTHING = Wanted()


def newest_id() -> int:
    """The cursor behind everything there is. Raises django.db.Error."""
    return _released(lambda: Event.objects.aggregate(newest=Max("id"))["newest"] or 0)


def last_of_provider(type_: str, provider: str) -> Event | None:
    """The newest event of a type that is no caller's, of a provider. Raises django.db.Error."""
    # By the index of keys, whose part of nobody's events is small: types have none.
    found = Event.objects.filter(key="", type=type_, provider=provider)
    return _released(lambda: found.order_by("-id").first())


def read_behind(cursor: int) -> list[Told]:
    """The next page of everything. Raises django.db.Error."""
    return _released(lambda: _told(EVERYTHING.rows().filter(id__gt=cursor)))


def read_between(cursor: int, end: int, wanted: Wanted) -> tuple[list[Told], int]:
    """The next page of what is wanted behind `cursor` and up to `end`, and the cursor behind it.
    Raises django.db.Error."""
    return _released(lambda: _page(cursor, end, wanted))


def count_between(cursor: int, end: int, wanted: Wanted) -> int:
    """How many wanted events are behind `cursor` and up to `end`. Raises django.db.Error."""
    return _released(lambda: wanted.rows().filter(id__gt=cursor, id__lte=end).count())


def _page(cursor: int, end: int, wanted: Wanted) -> tuple[list[Told], int]:
    # Ids of what has been deleted are not looked through.
    first = Event.objects.filter(id__gt=cursor).order_by("id").values_list("id", flat=True).first()
    if first is None or first > end:
        return [], end
    last = min(first + WINDOW, end)
    found = _told(wanted.rows().filter(id__gt=cursor, id__lte=last))
    return found, found[-1].id if len(found) == PAGE else last


def _told(rows: QuerySet[Event]) -> list[Told]:
    return [tell(row) for row in rows.order_by("id").values_list(*_NAMES, "fields")[:PAGE]]


def tell(row: Sequence[Any]) -> Told:
    """One flat object: what every event has, what applies of the rest, and the type's own fields,
    none of which can stand for one of the others."""
    id_, type_, created_at, request_id, key, session_id, provider, model, fields = row
    applying = {"key": key, "session_id": session_id, "provider": provider, "model": model}
    told = {
        "type": type_,
        "timestamp": _timestamp(created_at),
        "request_id": request_id or None,
        **{name: value for name, value in applying.items() if value},
    }
    data = orjson.dumps({**told, **fields, **told})
    return Told(id_, type_, key, session_id, request_id, encode_event(data, type_, id_=id_))


def dropped(count: int, after: int) -> bytes:
    """The notice of a gap: so many events behind the id `after` are not told. It has no id of its
    own, or a reader that comes back would be told nothing of them either."""
    told = {
        "type": "dropped",
        "timestamp": _timestamp(datetime.now(UTC)),
        "request_id": None,
        "count": count,
        "after": after,
    }
    return encode_event(orjson.dumps(told), "dropped")


def frames(told: Iterable[Told]) -> bytes:
    return b"".join([each.frame for each in told])


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _released(read: Callable[[], T]) -> T:
    """Runs in a worker thread; no connection stays with it."""
    close_old_connections()
    try:
        return read()
    finally:
        close_old_connections()
