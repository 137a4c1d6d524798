"""Sessions: made, listed, changed, branched, forgotten; looked up among the caller's own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from django.db import IntegrityError, transaction
from django.utils import timezone

from sessions_app.session_rows import Session, SessionLabel, SessionMessage, Truncation
from sessions_app.transcripts import find_message
from sessions_app.turns import lock

MAX_LABEL_NAME, MAX_LABEL = 64, 512
"""The columns' sizes, which Postgres keeps to."""
_COPIED_AT_ONCE = 500


class SessionExists(Exception):
    """The owner has a session of this id already."""


@dataclass(slots=True)
class NewSession:
    """A session as it is to be made; without an id, it gets one nobody can guess."""

    session_id: str = ""
    provider: str = ""
    model: str = ""
    truncation: str = Truncation.ERROR
    settings: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def new_session_id() -> str:
    return f"session-{secrets.token_hex(24)}"


def make(owner: str, new: NewSession) -> Session:
    """Raises SessionExists."""
    return insert(
        Session(
            owner=owner,
            session_id=new.session_id or new_session_id(),
            provider=new.provider,
            model=new.model,
            truncation=new.truncation,
            settings=orjson.dumps(new.settings).decode(),
            metadata=orjson.dumps(new.metadata).decode(),
        )
    )


def insert(row: Session) -> Session:
    """Stores a new session and what it can be found by. Raises SessionExists."""
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            _label(row)
    except IntegrityError:
        raise SessionExists(row.session_id) from None
    return row


def _label(row: Session) -> None:
    SessionLabel.objects.bulk_create(
        SessionLabel(session=row, name=name, value=value)
        for name, value in labels_of(row.read_metadata()).items()
    )


def labels_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What of some metadata a session can be found by: texts as they are, numbers and truths as
    JSON writes them. No column can hold U+0000."""
    texts = {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in metadata.items()
        if isinstance(value, str | int | float)
    }
    return {
        name: text
        for name, text in texts.items()
        if "\0" not in name + text and len(name) <= MAX_LABEL_NAME and len(text) <= MAX_LABEL
    }


def change(owner: str, session_id: str, fields: Mapping[str, Any]) -> Session:
    """Sets columns (`provider`, `model`, `truncation`), `metadata`, and single `settings`, of which
    None takes one out. Raises UnknownSession."""
    with transaction.atomic():
        row = lock(owner, session_id)
        for name in ("provider", "model", "truncation"):
            setattr(row, name, fields.get(name, getattr(row, name)))
        settings = {**row.read_settings(), **fields.get("settings", {})}
        settings = {name: value for name, value in settings.items() if value is not None}
        row.settings = orjson.dumps(settings).decode()
        if "metadata" in fields:
            row.metadata = orjson.dumps(fields["metadata"]).decode()
            SessionLabel.objects.filter(session=row).delete()
            _label(row)
        row.updated_at = timezone.now()
        row.save(
            update_fields=[
                *("provider", "model", "truncation", "settings", "metadata", "updated_at")
            ]
        )
    return row


def forget(owner: str, session_id: str) -> None:
    """Deletes a session and all that was said in it. A turn that goes on meanwhile appends nothing.
    Raises UnknownSession."""
    with transaction.atomic():
        # Locked, so that no turn appends what the deletion has not seen.
        lock(owner, session_id).delete()


# --- lists --------------------------------------------------------------------------------------


def page(
    owner: str, labels: Mapping[str, str], *, after: int | None, limit: int
) -> tuple[list[Session], bool]:
    """At most `limit` of the owner's sessions, the newest first, behind the row `after`; and
    whether there are more."""
    rows = Session.objects.owned_by(owner)
    for name, value in labels.items():
        rows = rows.filter(labels__name=name, labels__value=value)
    if after is not None:
        rows = rows.filter(pk__lt=after)
    found = list(rows.order_by("-pk")[: limit + 1])
    return found[:limit], len(found) > limit


# --- branches -----------------------------------------------------------------------------------


def fork(owner: str, session_id: str, *, at: str | None) -> Session:
    """A new session that begins as this one does, up to the message `at` and with it. It has cost
    nothing yet. Raises UnknownSession and UnknownMessage."""
    with transaction.atomic():
        row = lock(owner, session_id)
        until = row.last_number + 1 if at is None else find_message(row, at).number
        said = SessionMessage.objects.filter(session=row, number__lte=until).order_by("number")
        summaries = said.filter(summary=True).order_by("-number")
        covered = summaries.values_list("number", flat=True).first() or 0
        branch = make_like(row)
        messages = [_copied(each, branch, covered=covered) for each in said]
        SessionMessage.objects.bulk_create(messages, batch_size=_COPIED_AT_ONCE)
        branch.last_number = max((each.number for each in messages), default=0) // 2 * 2
        branch.message_count = sum(not each.compacted for each in messages)
        branch.save(update_fields=["last_number", "message_count"])
    return branch


def make_like(row: Session) -> Session:
    """A new session with the settings of another, in which nothing was said."""
    settings, metadata = row.read_settings(), row.read_metadata()
    new = NewSession("", row.provider, row.model, row.truncation, settings, metadata)
    return make(row.owner, new)


def _copied(message: SessionMessage, branch: Session, *, covered: int) -> SessionMessage:
    message.pk = None
    message.session = branch
    message.compacted = message.number < covered
    return message
