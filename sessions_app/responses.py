"""Stored responses: kept, found, forgotten. Plain functions that use the database; the event loop
calls them through `providers.database.in_database`.

An id a caller names is looked up among that caller's own rows, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from sessions_app.conversations import go_on
from sessions_app.ids import Unknown, is_id
from sessions_app.models import (
    ACTIVE,
    ANSWERED,
    ResponseEvents,
    ResponseStatus,
    StoredItem,
    StoredResponse,
)

HEARTBEAT_S = 2.0
ABANDONED_AFTER_S = 15.0
"""A worker that gave no sign of life for so long is taken for dead; its responses have failed."""
KEPT_DAYS = 30
EVENTS_KEPT_HOURS = 24
"""How long the stream of a background response can be had again."""
SWEEP_EVERY_S = 600.0
_SWEEP_AT_ONCE = 500


class UnknownResponse(Unknown):
    noun = "response"


@dataclass(slots=True)
class Kept:
    """A response as it is stored."""

    owner: str
    response_id: str
    model: str
    provider: str = ""
    upstream_id: str = ""
    native: bool = False
    background: bool = False
    previous_response_id: str = ""
    conversation: str = ""
    input: list[dict[str, Any]] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)


def keep(kept: Kept) -> bool:
    """Stores a response and where its items are; one of the same id is replaced. Returns whether
    it could be: a background response that was cancelled or deleted meanwhile stays so."""
    if not is_id(kept.response_id):
        return False
    with transaction.atomic():
        news = True
        if kept.background:
            mine = StoredResponse.objects.owned_by(kept.owner).filter(response_id=kept.response_id)
            news = not mine.filter(status__in=ANSWERED).exists()  # else this was tried before
            if not mine.exclude(status=ResponseStatus.CANCELLED).update(**_columns(kept)):
                return False
            row = mine.get()
        else:
            row, _ = StoredResponse.objects.update_or_create(
                owner=kept.owner,
                response_id=kept.response_id,
                defaults=_columns(kept),
                create_defaults={**_columns(kept), "chain": _chain(kept)},
            )
        provider = kept.provider if kept.native else ""
        note_items(kept.owner, row.read_output(), provider=provider, response=row)
        _note_input(row)
        if row.conversation and news and row.status in ANSWERED:
            go_on(row)
    _sweep_now_and_then()
    return True


def queue(kept: Kept) -> StoredResponse:
    """Stores a background response before its work begins."""
    return StoredResponse.objects.create(
        owner=kept.owner,
        response_id=kept.response_id,
        chain=_chain(kept),
        heartbeat_at=timezone.now(),
        **_columns(kept),
    )


def _columns(kept: Kept) -> dict[str, Any]:
    return {
        "status": _status(kept.body.get("status")),
        "model": kept.model.replace("\0", "")[:300],
        "provider": kept.provider,
        "upstream_id": kept.upstream_id if is_id(kept.upstream_id) else "",
        "native": kept.native,
        "background": kept.background,
        "previous_response_id": kept.previous_response_id,
        "conversation": kept.conversation,
        "input": orjson.dumps(kept.input).decode(),
        "body": orjson.dumps(kept.body).decode(),
    }


def _status(told: Any) -> str:
    return told if told in ResponseStatus.values else ResponseStatus.COMPLETED


def _chain(kept: Kept) -> str:
    if not kept.previous_response_id:
        return kept.response_id
    before = StoredResponse.objects.owned_by(kept.owner).filter(
        response_id=kept.previous_response_id
    )
    return before.values_list("chain", flat=True).first() or kept.response_id


def note_items(
    owner: str,
    items: Iterable[dict[str, Any]],
    *,
    provider: str,
    response: StoredResponse | None = None,
) -> None:
    """Remembers where items are and whose credential made them."""
    named = {item["id"]: item for item in items if is_id(item.get("id"))}
    StoredItem.objects.bulk_create(
        [
            StoredItem(owner=owner, item_id=name, provider=provider, response=response)
            for name in named
        ],
        update_conflicts=True,
        unique_fields=["owner", "item_id"],
        update_fields=["provider", "response"],
    )


def _note_input(row: StoredResponse) -> None:
    """An item that came back to us stays where it was made."""
    names = {item["id"] for item in row.read_input() if is_id(item.get("id"))}
    StoredItem.objects.bulk_create(
        [StoredItem(owner=row.owner, item_id=name, response=row) for name in names],
        ignore_conflicts=True,
    )


def find(owner: str, response_id: str) -> StoredResponse:
    """Raises UnknownResponse."""
    if not is_id(response_id):
        raise UnknownResponse(response_id)
    fail_abandoned()
    row = StoredResponse.objects.owned_by(owner).filter(response_id=response_id).first()
    if row is None:
        raise UnknownResponse(response_id)
    return row


def is_known(response_id: str) -> bool:
    """Whether anybody's response has this id, here or upstream."""
    return StoredResponse.objects.filter(
        Q(response_id=response_id) | Q(upstream_id=response_id)
    ).exists()


def forget(owner: str, response_id: str) -> None:
    """Deletes a response. Raises UnknownResponse."""
    if not is_id(response_id):
        raise UnknownResponse(response_id)
    gone, _ = StoredResponse.objects.owned_by(owner).filter(response_id=response_id).delete()
    if not gone:
        raise UnknownResponse(response_id)


def chain_of(owner: str, response_id: str) -> list[StoredResponse]:
    """A response and those before it, the oldest first. Raises UnknownResponse, also for one that
    is missing in the middle: a history with a hole would mean something else."""
    last = find(owner, response_id)
    before = dict(
        StoredResponse.objects.owned_by(owner)
        .filter(chain=last.chain)
        .values_list("response_id", "previous_response_id")
    )
    path: list[str] = []
    name = response_id
    while name:
        if name not in before or name in path:
            raise UnknownResponse(name)
        path.append(name)
        name = before[name]
    rows = StoredResponse.objects.owned_by(owner).filter(response_id__in=path)
    found = {row.response_id: row for row in rows}
    if len(found) < len(path):
        raise UnknownResponse(next(name for name in path if name not in found))
    return [found[name] for name in reversed(path)]


def providers_of_items(owner: str, item_ids: Collection[str]) -> dict[str, str]:
    """Which provider's credential made each of these items, as far as is known."""
    rows = StoredItem.objects.filter(owner=owner, item_id__in=[i for i in item_ids if is_id(i)])
    return dict(rows.exclude(provider="").values_list("item_id", "provider"))


def find_items(owner: str, item_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The items with these ids, as far as they are stored."""
    wanted = {each for each in item_ids if is_id(each)}
    places = StoredItem.objects.filter(owner=owner, item_id__in=wanted).values("response")
    rows = StoredResponse.objects.owned_by(owner).filter(pk__in=places)
    return {
        item["id"]: item for row in rows for item in row.read_items() if item.get("id") in wanted
    }


# --- background ---------------------------------------------------------------------------------


def begin(owner: str, response_id: str) -> bool:
    """Marks a queued response as being worked on; False when it was cancelled or deleted."""
    return bool(
        StoredResponse.objects.owned_by(owner)
        .filter(response_id=response_id, status__in=ACTIVE)
        .update(status=ResponseStatus.IN_PROGRESS, heartbeat_at=timezone.now())
    )


def cancel(owner: str, response_id: str) -> StoredResponse:
    """Cancels a response that is still being made; one that has ended stays as it is. The worker
    that makes it looks for this mark. Raises UnknownResponse."""
    row = find(owner, response_id)
    mine = StoredResponse.objects.filter(pk=row.pk, status__in=ACTIVE)
    if mine.update(status=ResponseStatus.CANCELLED):
        row.status = ResponseStatus.CANCELLED
    else:
        row.refresh_from_db()
    return row


def still_wanted(running: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of a worker's responses (owner, id) are still to be made. Gives a sign of life."""
    ids = [response_id for _, response_id in running]
    rows = StoredResponse.objects.filter(response_id__in=ids, status__in=ACTIVE)
    wanted = {
        (owner, response_id): pk
        for owner, response_id, pk in rows.values_list("owner", "response_id", "pk")
        if (owner, response_id) in running
    }
    StoredResponse.objects.filter(
        pk__in=wanted.values(),
        heartbeat_at__lt=timezone.now() - timedelta(seconds=HEARTBEAT_S),
    ).update(heartbeat_at=timezone.now())
    return set(wanted)


def fail_abandoned() -> int:
    """Marks the responses of dead workers as failed; returns how many."""
    since = timezone.now() - timedelta(seconds=ABANDONED_AFTER_S)
    failed = 0
    for row in StoredResponse.objects.abandoned(since=since)[:_SWEEP_AT_ONCE]:
        body = row.read_body()
        body["status"] = ResponseStatus.FAILED
        body["error"] = {
            "code": "server_error",
            "message": "The worker that made this response ended before it was done.",
        }
        failed += (
            StoredResponse.objects.abandoned(since=since)
            .filter(pk=row.pk)
            .update(status=ResponseStatus.FAILED, body=orjson.dumps(body).decode())
        )
    return failed


def _sweep_now_and_then() -> None:
    global _next_sweep
    now = time.monotonic()
    if now >= _next_sweep:
        _next_sweep = now + SWEEP_EVERY_S
        forget_old()


_next_sweep = 0.0


def forget_old() -> None:
    """Deletes some of what was kept for KEPT_DAYS; the rest the next time."""
    until = timezone.now() - timedelta(days=KEPT_DAYS)
    old = StoredResponse.objects.filter(created_at__lt=until).values_list("pk", flat=True)
    StoredResponse.objects.filter(pk__in=list(old[:_SWEEP_AT_ONCE])).delete()
    loose = StoredItem.objects.filter(created_at__lt=until, response=None)
    some = list(loose.values_list("pk", flat=True)[:_SWEEP_AT_ONCE])
    StoredItem.objects.filter(pk__in=some).delete()
    until = timezone.now() - timedelta(hours=EVENTS_KEPT_HOURS)
    told = ResponseEvents.objects.filter(created_at__lt=until).exclude(response__status__in=ACTIVE)
    some = list(told.values_list("pk", flat=True)[:_SWEEP_AT_ONCE])
    ResponseEvents.objects.filter(pk__in=some).delete()
