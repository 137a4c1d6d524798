"""How many conversations are going on."""

from __future__ import annotations

from datetime import datetime


def active_sessions(since: datetime) -> int:
    """Sessions with a turn since then: none, for as long as the gateway keeps none."""
    return 0
