"""The streams of background responses, stored for those who come back to them. Plain functions
that use the database, as in `sessions_app.responses`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from sessions_app.models import ACTIVE, ResponseEvents, StoredResponse
from sessions_app.responses import Kept, UnknownResponse, fail_abandoned, find, keep, queue

BLOCKS_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Block:
    """Events in a row: the number of the first, and their JSON texts."""

    first: int
    lines: list[str]
    ends: bool = False
    """Whether the last one ends the stream."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is stored of a stream after some event: numbers and JSON texts."""

    lines: list[tuple[int, str]] = field(default_factory=list)
    over: bool = False
    """Whether nothing comes after these."""
    body: dict[str, Any] | None = None
    """The Response object of a stream that is over without an event that says so: it was
    cancelled, or the worker that told of it died."""


def queue_stream(kept: Kept, block: Block) -> None:
    """Stores a background response and the first events of its stream before its work begins."""
    with transaction.atomic():
        _write(queue(kept), block)


def note_events(owner: str, response_id: str, block: Block) -> None:
    """Stores events of a response that is still wanted; of one that is not, no more is told."""
    with transaction.atomic():
        if (row := _wanted(owner, response_id)) is not None:
            _write(row, block)


def finish_stream(kept: Kept, block: Block) -> bool:
    """`keep` with the last events of its stream: both are stored, or neither."""
    with transaction.atomic():
        row = _wanted(kept.owner, kept.response_id)
        if not keep(kept):
            return False
        if row is not None:
            _write(row, block)
    return True


def has_stream(owner: str, response_id: str) -> bool:
    """Whether a response has a stream that can be had again. Raises UnknownResponse."""
    return find(owner, response_id).events.exists()


def told_after(owner: str, response_id: str, number: int) -> Told:
    """Raises UnknownResponse."""
    fail_abandoned()
    # Looked at before the events are: what is over by then has stored all of them.
    mine = StoredResponse.objects.owned_by(owner).filter(response_id=response_id)
    row = mine.only("pk", "status").first()
    if row is None:
        raise UnknownResponse(response_id)
    blocks = list(row.events.filter(last__gt=number).order_by("first")[:BLOCKS_AT_ONCE])
    if blocks or row.is_active:
        return Told(_numbered(blocks, number), over=bool(blocks) and blocks[-1].ends)
    ended = row.events.filter(ends=True).exists()
    return Told(over=True, body=None if ended else mine.get().read_body())


def _numbered(blocks: Iterable[ResponseEvents], number: int) -> list[tuple[int, str]]:
    told: list[tuple[int, str]] = []
    for block in blocks:
        lines = block.read_after(number)
        told += zip(range(block.last + 1 - len(lines), block.last + 1), lines, strict=True)
        number = block.last
    return told


def _wanted(owner: str, response_id: str) -> StoredResponse | None:
    mine = StoredResponse.objects.select_for_update().filter(owner=owner, response_id=response_id)
    return mine.filter(status__in=ACTIVE).only("pk").first()


def _write(row: StoredResponse, block: Block) -> None:
    if block.lines:
        ResponseEvents.objects.update_or_create(
            response=row,
            first=block.first,
            defaults={
                "last": block.first + len(block.lines) - 1,
                "lines": "\n".join(block.lines),
                "ends": block.ends,
            },
        )
