"""Conversations that nobody goes on with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from sessions_app import conversations, retention, sessions, transcripts, turns
from sessions_app.models import Conversation, ConversationItem, Session, SessionMessage
from sessions_app.responses import Kept, find, keep
from sessions_app.sessions import NewSession
from sessions_app.transcripts import Said

pytestmark = pytest.mark.django_db(transaction=True)
LONG_AGO = timezone.now() - timedelta(days=40)
LATELY = timezone.now() - timedelta(days=20)
A_MONTH = timedelta(days=30)


def session(name: str, *, messages: int = 2) -> Session:
    row = sessions.make("ci", NewSession(name, metadata={"a": 1}))
    said = [Said({"role": "user", "content": str(at)}) for at in range(messages)]
    transcripts.append(turns.enter("ci", name), said)
    Session.objects.filter(pk=row.pk).update(updated_at=LONG_AGO, created_at=LONG_AGO)
    return row


def left() -> set[str]:
    return set(Session.objects.values_list("session_id", flat=True))


def test_sessions_go_with_all_that_was_said_when_nobody_has_gone_on_with_them() -> None:
    session("old"), session("gone-on-with"), session("in-a-turn")
    Session.objects.filter(session_id="gone-on-with").update(updated_at=LATELY)
    turns.enter("ci", "in-a-turn")
    assert retention.prune(timezone.now() - A_MONTH) == 1
    assert left() == {"gone-on-with", "in-a-turn"}
    assert SessionMessage.objects.count() == 4


def test_large_sessions_go_a_few_in_each_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "ROWS", 5)
    monkeypatch.setattr(retention, "PAUSE_S", 0)
    for number in range(4):
        session(str(number), messages=4)
    before = timezone.now() - A_MONTH
    assert retention.prune(before, seconds=0) == 1
    assert retention.prune(before) == 3
    assert left() == set()


def test_conversations_go_and_their_responses_stay() -> None:
    item = {"id": "item_1", "type": "message", "role": "user", "content": "Hi"}
    old = conversations.make("ci", {}, [item])
    new = conversations.make("ci", {}, [item])
    body = {"id": "resp_1", "status": "completed", "output": []}
    keep(Kept("ci", "resp_1", "m", conversation=old.conversation_id, body=body))
    Conversation.objects.update(updated_at=LONG_AGO)
    conversations.add_items("ci", new.conversation_id, [{**item, "id": "item_2"}])
    assert retention.prune(timezone.now() - A_MONTH) == 1
    assert Conversation.objects.get().pk == new.pk
    assert ConversationItem.objects.count() == 2
    assert find("ci", "resp_1").conversation == ""


def test_all_is_kept_where_nobody_says_for_how_long(settings: Any) -> None:
    session("old")
    retention.prune_expired()
    with pytest.raises(CommandError, match="ABSTRACTCORE_SESSIONS_RETENTION"):
        call_command("prune_sessions")
    assert left() == {"old"}
    settings.SESSIONS_RETENTION_DAYS = 30
    retention.prune_expired()
    assert left() == set()


def test_a_command_deletes_what_is_older_than_it_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session("old")
    call_command("prune_sessions", "--days", "50")
    assert left() == {"old"}
    call_command("prune_sessions", "--days", "30")
    assert "1 sessions and conversations deleted." in capsys.readouterr().out
