"""How many conversations are going on."""

from __future__ import annotations

from datetime import datetime

from sessions_app.session_rows import Session


def active_sessions(since: datetime) -> int:
    """Sessions with a turn since then."""
    return Session.objects.active(since=since).count()
