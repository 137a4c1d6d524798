"""What sessions have cost: counted by whoever writes a request into the ledger, as it is written.

In the same transaction, so that a session's totals are those of its rows whatever is killed or away
in between; a request that is known by its id is on neither twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from django.db.models import F
from django.utils import timezone

from sessions_app.session_rows import Session


class Bill(NamedTuple):
    """What some requests of a session have used."""

    tokens: int
    picodollars: int
    """Of priced requests."""
    unpriced_requests: int


def add(bills: Mapping[tuple[str, str], Bill]) -> None:
    """Adds to sessions, by owner and id, in their order: two that do so never wait for each other
    in a ring. A session that was deleted meanwhile needs no bill."""
    for (owner, session_id), bill in sorted(bills.items()):
        Session.objects.owned_by(owner).filter(session_id=session_id).update(
            total_tokens=F("total_tokens") + bill.tokens,
            total_picodollars=F("total_picodollars") + bill.picodollars,
            unpriced_requests=F("unpriced_requests") + bill.unpriced_requests,
            updated_at=timezone.now(),
        )
