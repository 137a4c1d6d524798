"""What was said in a session: read as far as a model can be told it, and gone on with.

Reading looks at sizes before it reads a message, so that a turn of a long session costs what its
model's window holds, not what the session does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from django.db import transaction
from django.db.models import F, QuerySet, Sum
from django.utils import timezone

from sessions_app.ids import Unknown, is_id, new_id
from sessions_app.session_rows import Session, SessionMessage
from sessions_app.sizes import tokens_of
from sessions_app.turns import Place, UnknownSession, held, leave

_SIZES_AT_ONCE = 500


class UnknownMessage(Unknown):
    noun = "message"


@dataclass(frozen=True, slots=True)
class Said:
    """A message to be kept. `provider` and `model` are whose words it holds, empty for a
    caller's."""

    body: dict[str, Any]
    provider: str = ""
    model: str = ""
    incomplete: bool = False
    message_id: str = field(default_factory=lambda: new_id("msg"))


@dataclass(slots=True)
class Transcript:
    """What a model is told of a session, the oldest first, and how many messages it is not."""

    messages: list[SessionMessage] = field(default_factory=list)
    left_out: int = 0

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.messages)


def told(session: int) -> QuerySet[SessionMessage]:
    """The messages of a session that no summary stands for."""
    return SessionMessage.objects.filter(session=session, compacted=False).order_by("number")


def count_tokens(session: int) -> int:
    """An estimate of all that a model would be told."""
    total: int | None = told(session).aggregate(total=Sum("tokens"))["total"]
    return total or 0


def read_all(session: int) -> Transcript:
    return Transcript(list(told(session)))


def read_recent(session: int, *, budget: int, unfinished: bool = False) -> Transcript:
    """The newest whole turns that fit into `budget` tokens, and the summary of those before. A turn
    begins with a user's words, so that no result is parted from its call. The last turn is read
    however large where it is `unfinished`: what answers its calls comes next."""
    summaries = list(told(session).filter(summary=True))
    budget -= sum(row.tokens for row in summaries)
    begins = _where_it_fits(session, budget, keep_last=unfinished)
    said = told(session).filter(summary=False)
    recent = list(said.filter(number__gte=begins)) if begins is not None else []
    return Transcript([*summaries, *recent], said.count() - len(recent))


def _where_it_fits(session: int, budget: int, *, keep_last: bool) -> int | None:
    """The number of the first message of the turns that fit; None where none does."""
    found: int | None = None
    last: int | None = None
    for number, role, tokens in _sizes(session):
        budget -= tokens
        if budget < 0 and not (keep_last and found is None):
            return found
        last = number
        if role == "user":
            found = number
    return last  # all of it fits, whoever began


def _sizes(session: int) -> Iterable[tuple[int, str, int]]:
    """Number, role and tokens of messages, the newest first, read a block at a time."""
    rows = told(session).filter(summary=False).order_by("-number")
    sizes = rows.values_list("number", "role", "tokens")
    while True:
        block = list(sizes[:_SIZES_AT_ONCE])
        yield from block
        if len(block) < _SIZES_AT_ONCE:
            return
        sizes = rows.filter(number__lt=block[-1][0]).values_list("number", "role", "tokens")


def last_turn(session: int) -> int | None:
    """The number of the message the last turn begins with; None where nothing was said."""
    said = told(session).filter(summary=False)
    asked = said.filter(role="user").order_by("-number").values_list("number", flat=True)
    return asked.first()


def read_before(session: int, number: int) -> Transcript:
    """What a model is told of the messages before this one."""
    return Transcript(list(told(session).filter(number__lt=number)))


# --- going on -----------------------------------------------------------------------------------


def append(place: Place, said: Sequence[Said]) -> None:
    """Adds a turn and ends it, in one transaction. Raises TurnLost and UnknownSession."""
    with transaction.atomic():
        session, now = held(place), timezone.now()
        SessionMessage.objects.bulk_create(new_rows(session, said))
        Session.objects.filter(pk=session.pk).update(
            last_number=session.last_number + 2 * len(said),
            message_count=F("message_count") + len(said),
            last_turn_at=now,
            updated_at=now,
        )
        leave(place)


def is_kept(place: Place, said: Sequence[Said]) -> bool:
    """Whether a turn was added, for who lost the connection before it was told so."""
    last = said[-1].message_id
    return SessionMessage.objects.filter(session=place.session, message_id=last).exists()


def new_rows(session: Session, said: Sequence[Said]) -> list[SessionMessage]:
    """The rows of messages behind what was said."""
    return [
        _row(session, each, number=session.last_number + 2 * at)
        for at, each in enumerate(said, start=1)
    ]


def _row(session: Session, said: Said, *, number: int, summary: bool = False) -> SessionMessage:
    return SessionMessage(
        session=session,
        number=number,
        message_id=said.message_id,
        role=said.body["role"],
        incomplete=said.incomplete,
        summary=summary,
        provider=said.provider,
        model=said.model[:200],
        tokens=tokens_of(said.body),
        body=orjson.dumps(said.body).decode(),
    )


def compact(place: Place, summary: Said, *, until: int) -> int:
    """Puts a summary in the place of the messages up to the number `until`; returns how many those
    are. Raises TurnLost and UnknownSession."""
    with transaction.atomic():
        session = held(place)
        covered = told(session.pk).filter(number__lte=until)
        gone = covered.filter(summary=False).count()
        had_summary = covered.filter(summary=True).exists()
        covered.update(compacted=True)
        _row(session, summary, number=until + 1, summary=True).save(force_insert=True)
        Session.objects.filter(pk=session.pk).update(
            message_count=F("message_count") - gone + (0 if had_summary else 1),
            updated_at=timezone.now(),
        )
    return gone


# --- pages --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    session: Session
    messages: list[SessionMessage]
    more: bool


def read_page(
    owner: str, session_id: str, *, after: str | None, limit: int, compacted: bool = False
) -> Page:
    """A session and `limit` of its messages behind the one with the id `after`. Raises
    UnknownSession and UnknownMessage."""
    session = find(owner, session_id)
    rows = SessionMessage.objects.filter(session=session).order_by("number")
    if not compacted:
        rows = rows.filter(compacted=False)
    if after is not None:
        rows = rows.filter(number__gt=find_message(session, after).number)
    found = list(rows[: limit + 1])
    return Page(session, found[:limit], more=len(found) > limit)


def find(owner: str, session_id: str) -> Session:
    """One of the owner's sessions. Raises UnknownSession."""
    row = None
    if is_id(session_id):
        row = Session.objects.owned_by(owner).filter(session_id=session_id).first()
    if row is None:
        raise UnknownSession(session_id)
    return row


def find_message(session: Session, message_id: str) -> SessionMessage:
    """Raises UnknownMessage."""
    row = None
    if is_id(message_id):
        row = SessionMessage.objects.filter(session=session, message_id=message_id).first()
    if row is None:
        raise UnknownMessage(message_id)
    return row
