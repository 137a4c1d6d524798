"""Whole sessions, read and written."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction

from sessions_app.session_rows import Session, SessionMessage
from sessions_app.sessions import insert, new_session_id
from sessions_app.transcripts import find

_AT_ONCE = 500


def export(owner: str, session_id: str) -> tuple[Session, list[SessionMessage]]:
    """A session and everything said in it, what was summed up too. Raises UnknownSession."""
    with transaction.atomic():
        session = find(owner, session_id)
        return session, list(SessionMessage.objects.filter(session=session).order_by("number"))


def restore(owner: str, session: Session, messages: Sequence[SessionMessage]) -> Session:
    """Stores a session that was exported as a new one of the owner's."""
    session.owner, session.session_id = owner, new_session_id()
    session.last_number = max((row.number for row in messages), default=0) // 2 * 2
    session.message_count = sum(not row.compacted for row in messages)
    with transaction.atomic():
        row = insert(session)
        for message in messages:
            message.session = row
        SessionMessage.objects.bulk_create(messages, batch_size=_AT_ONCE)
    return row
