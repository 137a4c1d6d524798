"""Events on their way into their table, and out of it."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from chat.ids import new_id
from events_app.insertion import insert
from events_app.lines import EventLine
from events_app.models import Event
from events_app.retention import prune

pytestmark = pytest.mark.django_db(transaction=True)
ON_POSTGRES = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="SQLite has one writer at a time anyway"
)


def event(**changes: Any) -> EventLine:
    fields: dict[str, Any] = {"id": new_id(), "type": "tool_started", "at": time.time()}
    return EventLine(**(fields | changes))


def test_events_get_ids_in_their_order() -> None:
    lines = [event(request_id=f"r-{number}") for number in range(5000)]
    insert(lines)
    told = Event.objects.order_by("id").values_list("request_id", flat=True)
    assert list(told) == [line.request_id for line in lines]


def test_an_event_inserted_twice_is_one_row() -> None:
    first, second = event(), event()
    insert([first])
    insert([first, second, first])
    assert Event.objects.count() == 2


def test_one_line_may_tell_events_of_several_types() -> None:
    line = event(type="generation_started")
    insert([line, event(id=line.id, type="generation_completed")])
    assert Event.objects.count() == 2


def test_everything_told_is_in_the_row() -> None:
    fields = {"tool_name": "get_weather", "success": False, "duration_ms": 12, "error": None}
    line = event(request_id="r", key="ci", provider="p", model="p/m", fields=fields, at=1.5)
    insert([line])
    row: dict[str, Any] = dict(Event.objects.values().get())
    assert row.pop("created_at").timestamp() == 1.5
    assert row.pop("line").hex == line.id
    assert row.pop("id") > 0
    texts = {"request_id": "r", "key": "ci", "session_id": "", "provider": "p", "model": "p/m"}
    assert row == {"type": "tool_started", "fields": fields, **texts}


def test_what_no_column_takes_is_cut_to_what_it_takes() -> None:
    insert([event(model="m" * 5000 + "\0", key="a\0b", fields={"error": "x\0y", "deep": ["\0"]})])
    row = Event.objects.get()
    assert (len(row.model), row.key) == (300, "ab")
    assert row.fields == {"error": "xy", "deep": [""]}


@ON_POSTGRES
def test_a_reader_misses_nothing_whoever_commits_when() -> None:
    """The cursor's promise: behind the last id that was seen nothing appears in front of it."""
    writers = [threading.Thread(target=_write_often) for _ in range(4)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    while any(writer.is_alive() for writer in writers) or _behind(seen):
        seen += _behind(seen)
    for writer in writers:
        writer.join()
    assert len(seen) == 4 * 25 * 7
    assert seen == list(Event.objects.order_by("id").values_list("id", flat=True))


def _write_often() -> None:
    for _ in range(25):
        insert([event() for _ in range(7)])
    connection.close()


def _behind(seen: list[int]) -> list[int]:
    last = seen[-1] if seen else 0
    found = Event.objects.filter(id__gt=last).order_by("id")
    return list(found.values_list("id", flat=True))


@ON_POSTGRES
def test_whoever_inserts_waits_for_the_commit_of_who_came_first() -> None:
    """Else the first one's ids, drawn earlier, would become visible later."""
    inserted = threading.Event()

    def other() -> None:
        insert([event(request_id="second")])
        inserted.set()
        connection.close()

    with transaction.atomic():
        insert([event(request_id="first")])
        thread = threading.Thread(target=other)
        thread.start()
        assert not inserted.wait(0.3)
    thread.join(10)
    assert inserted.is_set()
    told = Event.objects.order_by("id").values_list("request_id", flat=True)
    assert list(told) == ["first", "second"]


def test_pruning_deletes_what_is_old_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events_app.retention.BATCH", 10)
    now = timezone.now()
    insert([event(at=(now - timedelta(days=8)).timestamp()) for _ in range(25)])
    insert([event(request_id="young")])
    assert prune(now - timedelta(days=7)) == 25
    assert Event.objects.get().request_id == "young"


def test_an_id_is_never_used_again() -> None:
    insert([event()])
    last = Event.objects.get().id
    prune(timezone.now() + timedelta(days=1))
    insert([event()])
    assert Event.objects.get().id > last


def test_the_command_prunes_by_the_setting_or_by_its_option(
    settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.EVENTS_RETENTION_DAYS = 3
    for days in (1, 5):
        insert([event(at=(timezone.now() - timedelta(days=days)).timestamp())])
    call_command("prune_events")
    assert "1 events deleted" in capsys.readouterr().out
    call_command("prune_events", days=0.5)
    assert Event.objects.count() == 0
