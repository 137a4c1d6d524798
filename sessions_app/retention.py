"""Conversations nobody goes on with go, where the operator says after how long; in small steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error, close_old_connections, transaction
from django.db.models.functions import Now
from django.utils import timezone

from sessions_app.models import Conversation, StoredResponse
from sessions_app.session_rows import Session

logger = logging.getLogger(__name__)

ROWS = 2000
"""Messages a transaction, about: SQLite's only writer, the ledger's, waits for no longer."""
AT_ONCE = 100
PAUSE_S = 0.05
STEP_S = 20.0


def expiry() -> datetime | None:
    """What was last gone on with before this is kept no longer; None where all is kept."""
    days: float = settings.SESSIONS_RETENTION_DAYS
    return timezone.now() - timedelta(days=days) if days else None


def prune(before: datetime, *, seconds: float = float("inf")) -> int:
    """Deletes the sessions and conversations that were last gone on with before a moment, with all
    that was said in them, oldest first and for about so long; returns how many. One whose turn goes
    on stays. Safe beside turns and another prune. Raises django.db.Error."""
    deadline = time.monotonic() + seconds
    total = 0
    for forget_some in (_forget_sessions, _forget_conversations):
        while gone := forget_some(before):
            total += gone
            if time.monotonic() > deadline:
                return total
            time.sleep(PAUSE_S)
    return total


def prune_expired() -> None:
    """One step of a worker's background: what has expired goes, no connection stays."""
    if (before := expiry()) is None:
        return
    close_old_connections()
    try:
        prune(before, seconds=STEP_S)
    except Error as error:
        logger.warning("Expired sessions could not be deleted: %s", error)
    finally:
        close_old_connections()


def _forget_sessions(before: datetime) -> int:
    with transaction.atomic():
        idle = Session.objects.filter(updated_at__lt=before).exclude(turns__expires_at__gte=Now())
        # Locked, as a turn locks it before it takes its place.
        locked = idle.order_by("updated_at").select_for_update(skip_locked=True, of=("self",))
        sizes = (
            (row.pk, row.last_number // 2) for row in locked.only("pk", "last_number")[:AT_ONCE]
        )
        some = _as_many_as_fit(sizes)
        Session.objects.filter(pk__in=some).delete()
    return len(some)


def _forget_conversations(before: datetime) -> int:
    with transaction.atomic():
        idle = Conversation.objects.filter(updated_at__lt=before).order_by("updated_at")
        rows = list(idle.select_for_update(skip_locked=True)[:AT_ONCE])
        some = set(_as_many_as_fit((row.pk, row.said.count()) for row in rows))
        for row in rows:
            if row.pk in some:
                turns = StoredResponse.objects.owned_by(row.owner)
                turns.filter(conversation=row.conversation_id).update(conversation="")
        Conversation.objects.filter(pk__in=some).delete()
    return len(some)


def _as_many_as_fit(sizes: Iterable[tuple[int, int]]) -> list[int]:
    """Keys, the first at least, whose rows are no more than a transaction should delete."""
    found: list[int] = []
    rows = 0
    for key, size in sizes:
        rows += size
        if found and rows > ROWS:
            break
        found.append(key)
    return found
