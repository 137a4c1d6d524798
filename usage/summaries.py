"""Questions to the ledger: its rows, newest first, and their totals.

`owner` is the key whose rows may be seen, None for all of them. It is part of every query here, so
that no view can forget it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Count, Model, Q, QuerySet, Sum
from django.db.models.functions import TruncDay

from usage.fields import usd_text
from usage.models import FAILURES, HourlyUsage, UsageRecord

MAX_PAGE = 1000
MAX_GROUPS = 10_000
SUMMED = ("tokens_input", "tokens_output", "tokens_cached", "cost_usd")
COUNTED = ("requests", "failures", "unpriced_requests")
GROUPS = ("day", "hour", "model", "provider", "key", "session")
"""What totals can be asked for by."""

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are asked about: every condition that is given. `since` is included, `until`
    is not."""

    since: datetime | None = None
    until: datetime | None = None
    key: str | None = None
    model: str | None = None
    provider: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    records: list[UsageRecord]
    next_cursor: str | None


def records(owner: str | None, wanted: Wanted, *, limit: int, after: str | None = None) -> Page:
    """At most `limit` records, newest first, behind the cursor `after`. Raises ValueError for what
    is no cursor of ours."""
    rows = _narrow(UsageRecord.objects.all(), owner, wanted, time="created_at")
    if after is not None:
        created_at, id_ = _read_cursor(after)
        # The first condition says nothing new; it is the one an index can be searched by.
        rows = rows.filter(created_at__lte=created_at).filter(
            Q(created_at__lt=created_at) | Q(id__lt=id_)
        )
    found = list(rows.order_by("-created_at", "-id")[: limit + 1])
    more = len(found) > limit
    return Page(found[:limit], _cursor(found[limit - 1]) if more else None)


def summary(owner: str | None, wanted: Wanted, *, by: str) -> dict[str, Any]:
    """Totals by one of GROUPS, as plain values: times newest first, the rest dearest first, at most
    MAX_GROUPS; `total` counts all.

    Reads the hourly totals, so `since` begins with its whole hour and `until` ends with the hour
    it stands in; of `wanted`, times, key, model and provider hold. `by="session"` has no hourly
    totals and adds up the records that have a session: for an owner's own ones an indexed look-up.
    """
    rows: QuerySet[Any] = _sessions(owner, wanted) if by == "session" else _hours(owner, wanted)
    if by == "day":
        rows = rows.annotate(day=TruncDay("hour", tzinfo=UTC))
    names = ("session_id", "key") if by == "session" else (by,)
    order = (f"-{by}",) if by in ("day", "hour") else ("-sum_cost_usd", *names)
    groups = list(rows.values(*names).annotate(**_sums(by)).order_by(*order)[: MAX_GROUPS + 1])
    more = len(groups) > MAX_GROUPS
    total = rows.aggregate(**_sums(by)) if more else _add_up(groups)
    return {
        "data": [{**_labels(row, by), **_amounts(row)} for row in groups[:MAX_GROUPS]],
        "total": _amounts(total),
        "has_more": more,
    }


def _hours(owner: str | None, wanted: Wanted) -> QuerySet[HourlyUsage]:
    since = wanted.since and wanted.since.replace(minute=0, second=0, microsecond=0)
    hours = Wanted(since, wanted.until, wanted.key, wanted.model, wanted.provider)
    return _narrow(HourlyUsage.objects.all(), owner, hours, time="hour")


def _sessions(owner: str | None, wanted: Wanted) -> QuerySet[UsageRecord]:
    rows = UsageRecord.objects.exclude(session_id="")
    return _narrow(rows, owner, wanted, time="created_at")


def _narrow(rows: QuerySet[M], owner: str | None, wanted: Wanted, *, time: str) -> QuerySet[M]:
    if owner is not None:
        rows = rows.filter(key=owner)
    conditions = {f"{time}__gte": wanted.since, f"{time}__lt": wanted.until} | {
        name: getattr(wanted, name)
        for name in ("key", "model", "provider", "session_id", "request_id", "status")
    }
    return rows.filter(**{name: value for name, value in conditions.items() if value is not None})


def _sums(by: str) -> dict[str, Any]:
    summed = {f"sum_{name}": Sum(name) for name in SUMMED}
    if by != "session":
        return summed | {f"sum_{name}": Sum(name) for name in COUNTED}
    return summed | {
        "sum_requests": Count("id"),
        "sum_failures": Count("id", filter=Q(status__in=FAILURES)),
        "sum_unpriced_requests": Count("id", filter=Q(cost_usd=None)),
    }


def _labels(row: dict[str, Any], by: str) -> dict[str, Any]:
    """What a group is called. A caller's own session id is scoped to its key, and two keys may use
    the same one, so a session is told with its key."""
    match by:
        case "session":
            return {"session": row["session_id"], "key": row["key"]}
        case "day":
            return {"day": f"{row['day']:%Y-%m-%d}"}
        case "hour":
            return {"hour": rfc3339(row["hour"])}
    return {by: row[by]}


def _add_up(groups: list[dict[str, Any]]) -> dict[str, Any]:
    names = [f"sum_{name}" for name in (*COUNTED, *SUMMED)]
    return {name: sum(row[name] or 0 for row in groups) for name in names}


def _amounts(sums: dict[str, Any]) -> dict[str, Any]:
    amounts = {name: sums[f"sum_{name}"] or 0 for name in (*COUNTED, *SUMMED)}
    return amounts | {"cost_usd": usd_text(Decimal(amounts["cost_usd"]))}


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# --- cursors ----------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _cursor(record: UsageRecord) -> str:
    """Where a page ends: microseconds since 1970 and id of its last record, opaque to callers."""
    place = f"{(record.created_at - _EPOCH) // _MICROSECOND}.{record.id.hex}"
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        place = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        microseconds, _, id_ = place.partition(".")
        return _EPOCH + int(microseconds) * _MICROSECOND, UUID(id_)
    except (binascii.Error, ValueError, OverflowError):
        raise ValueError("not a cursor") from None
