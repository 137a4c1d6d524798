"""Whose turn it is in a session, over all workers and machines: a queue of rows.

A turn takes a place at the end and has its turn when nobody is left in front. Places are renewed
while their holders live; what a killed worker leaves behind expires, and is swept by the next.
Times are the database's own: machines' clocks differ. No transaction is open between the calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from sessions_app.ids import Unknown, is_id
from sessions_app.session_rows import Session, SessionTurn

LEASE_S = 10.0
"""A place that was not renewed for so long is a dead worker's."""
RENEW_EVERY_S = 2.5
MAX_WAITING = 100
"""Of one session: whoever sends more at once would only fill the database."""


class UnknownSession(Unknown):
    noun = "session"


class TurnLost(Exception):
    """The place has expired: the session went on without this turn."""


class TooManyWaiting(Exception):
    """The session's queue is full."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a session's queue, by the keys of the rows."""

    session: int
    turn: int
    first: bool
    """Whether nobody was in front when it was taken: it is its turn."""
    session_id: str
    waited_s: float = 0.0
    """For the turns in front of it."""


def enter(owner: str, session_id: str) -> Place:
    """Takes the last place. Raises UnknownSession and TooManyWaiting."""
    with transaction.atomic():
        # Locked, so that places become visible in the order of their ids.
        session = lock(owner, session_id)
        _sweep(session.pk)
        waiting = SessionTurn.objects.filter(session=session).count()
        if waiting >= MAX_WAITING:
            raise TooManyWaiting
        row = SessionTurn.objects.create(session=session, expires_at=_soon(), holds=not waiting)
    return Place(session.pk, row.pk, first=not waiting, session_id=session_id)


def lock(owner: str, session_id: str) -> Session:
    """One of the owner's sessions, locked for the rest of the transaction. Raises
    UnknownSession."""
    row = None
    if is_id(session_id):
        mine = Session.objects.owned_by(owner).select_for_update()
        row = mine.filter(session_id=session_id).first()
    if row is None:
        raise UnknownSession(session_id)
    return row


def advance(place: Place) -> bool:
    """Whether it is this place's turn now. Raises TurnLost when it has expired, and UnknownSession
    when the session was deleted."""
    ahead = SessionTurn.objects.filter(session=place.session, pk__lt=place.turn)
    if ahead.filter(expires_at__gte=Now()).exists():
        return False
    with transaction.atomic():
        _lock_of(place)
        _sweep(place.session)
        if ahead.exists():
            return False
        mine = SessionTurn.objects.filter(pk=place.turn)
        if not mine.update(holds=True, expires_at=_soon()):
            raise TurnLost
    return True


def renew(place: Place) -> None:
    """Gives a sign of life. Raises TurnLost when the place has expired, and UnknownSession when the
    session was deleted."""
    alive = SessionTurn.objects.filter(pk=place.turn, expires_at__gte=Now())
    if alive.update(expires_at=_soon()):
        return
    if Session.objects.filter(pk=place.session).exists():
        raise TurnLost
    raise UnknownSession(place.session_id)


def leave(place: Place) -> None:
    """Gives the place up, whether it was its turn or not."""
    SessionTurn.objects.filter(pk=place.turn).delete()


def held(place: Place) -> Session:
    """The session whose turn this is, locked for the rest of the transaction: what is written after
    it cannot come between another turn's messages. Raises TurnLost and UnknownSession."""
    session = _lock_of(place)
    if not SessionTurn.objects.filter(pk=place.turn, holds=True).exists():
        raise TurnLost
    return session


def _lock_of(place: Place) -> Session:
    session = Session.objects.select_for_update().filter(pk=place.session).first()
    if session is None:
        raise UnknownSession(place.session_id)
    return session


def _sweep(session: int) -> None:
    SessionTurn.objects.filter(session=session, expires_at__lt=Now()).delete()


def _soon() -> Combinable:
    return Now() + timedelta(seconds=LEASE_S)
