"""Old events go, in small steps."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error, close_old_connections
from django.utils import timezone

from events_app.models import Event

logger = logging.getLogger(__name__)

BATCH = 2000
"""Rows a transaction: SQLite's only writer, the ledger's, waits for no longer than that."""
PAUSE_S = 0.05
STEP_S = 20.0


def expiry() -> datetime:
    """Events from before this are kept no longer."""
    return timezone.now() - timedelta(days=settings.EVENTS_RETENTION_DAYS)


def prune(before: datetime, *, seconds: float = float("inf")) -> int:
    """Deletes the events from before a moment, oldest first and for about so long; returns how
    many. Safe beside readers, writers and another prune. Raises django.db.Error."""
    deadline = time.monotonic() + seconds
    total = 0
    while True:
        oldest = Event.objects.filter(created_at__lt=before).order_by("created_at")
        ids = list(oldest.values_list("id", flat=True)[:BATCH])
        total += Event.objects.filter(id__in=ids).delete()[0]
        if len(ids) < BATCH or time.monotonic() > deadline:
            return total
        time.sleep(PAUSE_S)


def prune_expired() -> None:
    """One step of a worker's background: what has expired goes, no connection stays."""
    close_old_connections()
    try:
        prune(expiry(), seconds=STEP_S)
    except Error as error:
        logger.warning("Expired events could not be deleted: %s", error)
    finally:
        close_old_connections()
