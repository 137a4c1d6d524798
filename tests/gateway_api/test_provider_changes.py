"""How a provider's changes are told once, by workers who see them at different times."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from events_app.insertion import insert
from events_app.lines import EventLine
from events_app.models import Event
from events_app.publishing import install_sink
from gateway_api.provider_changes import ProviderChanges
from providers.health import Seen

pytestmark = pytest.mark.django_db(transaction=True)


class Worker:
    """How one worker finds the provider `lab`."""

    def __init__(self) -> None:
        self.found: dict[str, Seen] = {}
        self.changes = ProviderChanges(lambda: self.found)

    def finds(self, status: str, reason: str | None = None, *, at: float = 0.0) -> None:
        """What it was answered just now, or at a moment; it looks at it twice."""
        self.found = {"lab": Seen(status, reason, at or time.time())}
        self.changes.step()
        self.changes.step()


@pytest.fixture
def journal() -> Iterator[list[EventLine]]:
    """What was published, on its way to the table."""
    lines: list[EventLine] = []
    install_sink(lines.append)
    yield lines
    install_sink(None)


def record(journal: list[EventLine]) -> None:
    insert(journal)
    journal.clear()


def told() -> list[tuple[str, str, str | None]]:
    rows = Event.objects.filter(type="provider_status_changed", provider="lab").order_by("id")
    return [(row.fields["from"], row.fields["to"], row.fields["reason"]) for row in rows]


DOWN = ("healthy", "unavailable", "network")
UP = ("unavailable", "healthy", None)


def test_the_first_look_is_no_change(journal: list[EventLine]) -> None:
    Worker().finds("unavailable", "network")
    assert journal == []


def test_workers_who_see_a_change_at_once_or_later_tell_it_once(journal: list[EventLine]) -> None:
    workers = Worker(), Worker(), Worker()
    for worker in workers:
        worker.finds("healthy")
    for worker in workers[:2]:
        worker.finds("unavailable", "network")
    record(journal)
    workers[2].finds("unavailable", "timeout")
    record(journal)
    assert told() == [DOWN]
    for worker in workers:
        worker.finds("healthy")
        record(journal)
    assert told() == [DOWN, UP]


def test_a_worker_that_never_saw_it_tells_its_end(journal: list[EventLine]) -> None:
    """The one that did was stopped."""
    seeing, other = Worker(), Worker()
    seeing.finds("healthy")
    other.finds("healthy")
    seeing.finds("unavailable", "network")
    record(journal)
    other.finds("healthy")
    record(journal)
    assert told() == [DOWN, UP]


def test_what_was_told_before_a_restart_is_gone_on_from(journal: list[EventLine]) -> None:
    before = Worker()
    before.finds("healthy")
    before.finds("unavailable", "network")
    record(journal)
    Worker().finds("unavailable", "network")
    assert journal == []
    Worker().finds("healthy")
    record(journal)
    assert told() == [DOWN, UP]


def test_a_change_back_waits_until_the_first_is_recorded(journal: list[EventLine]) -> None:
    worker = Worker()
    worker.finds("healthy")
    worker.finds("degraded", "circuit_open")
    worker.finds("healthy")
    record(journal)
    worker.changes.step()
    record(journal)
    assert told() == [("healthy", "degraded", "circuit_open"), ("degraded", "healthy", None)]


def test_a_breaker_does_not_outdo_a_later_look_of_another_worker(journal: list[EventLine]) -> None:
    worker, later = Worker(), Worker()
    asked_at = time.time() - 30
    worker.finds("healthy", at=asked_at)
    later.finds("healthy")
    later.finds("unavailable", "network")
    record(journal)
    worker.finds("degraded", "circuit_open", at=asked_at)
    worker.finds("healthy", at=asked_at)
    record(journal)
    assert told() == [DOWN]
    worker.finds("healthy")
    record(journal)
    assert told() == [DOWN, UP]


def test_a_provider_that_is_switched_off_and_on_is_compared_anew(journal: list[EventLine]) -> None:
    worker = Worker()
    worker.finds("healthy")
    worker.found = {}
    worker.changes.step()
    worker.finds("unavailable", "network")
    assert journal == []
