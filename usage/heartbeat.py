"""A worker's sign of life: a file for this machine's metrics, a row for the status of all machines.

The row is written when it would say something else, but every BEAT_S at most, and every IDLE_S in
any case: on SQLite its transaction takes the one writer, which is the ledger's too. A new revision
of the configuration is told at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.db import Error, close_old_connections
from django.db.models import QuerySet
from django.db.models.functions import Now
from prometheus_client.process_collector import ProcessCollector

from providers.runner.admission import under_way
from usage import gauges
from usage.gauges import Gauges
from usage.journal import Journal
from usage.models import Worker
from usage.recent import Recent
from usage.recorder import Recorder

BEAT_S = 2.0
IDLE_S = 10.0
DEAD_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Configured:
    """What a worker knows of its configuration: its revision, and how long ago it was found to be
    the database's."""

    revision: int
    checked_s: float


@dataclass(slots=True)
class Heartbeat:
    """`step` is for one thread, twice a second or so."""

    directory: Path
    """Of the tallies."""
    journal: Journal
    recorder: Recorder
    recent: Recent
    about: dict[str, Any]
    """What of the row never changes."""
    configured: Callable[[], Configured]
    providers: Callable[[], dict[str, Any]]
    _told: dict[str, Any] = field(default_factory=dict)
    _told_at: float = float("-inf")
    _measured_at: float = float("-inf")
    _process: ProcessCollector = field(default_factory=lambda: ProcessCollector(registry=None))

    def step(self) -> None:
        """Raises OSError; a database that is away is met again at the next step."""
        now = time.monotonic()
        configured = self.configured()
        if now - self._measured_at >= BEAT_S:
            self._measured_at = now
            gauges.write(self.directory, self.journal.name, self._gauges(configured.revision))
        told = self._row(configured.revision)
        if not self._is_due(told, now):
            return
        try:
            close_old_connections()
            self._write(told, configured.checked_s)
        except Error:
            return  # the recorder and the follower tell of it
        finally:
            close_old_connections()
        self._told, self._told_at = told, now

    def stop(self) -> None:
        """Takes file and row away."""
        gauges.remove(self.directory, self.journal.name)
        with suppress(Error):  # it is nobody's after DEAD_AFTER_S
            Worker.objects.filter(name=self.journal.name).delete()

    def _is_due(self, told: dict[str, Any], now: float) -> bool:
        waited = now - self._told_at
        if told.get("config_revision") != self._told.get("config_revision") or waited >= IDLE_S:
            return True
        return waited >= BEAT_S and told != self._told

    def _row(self, revision: int) -> dict[str, Any]:
        return {
            "config_revision": revision,
            "in_flight": self.journal.in_flight,
            "queue_depth": self.journal.depth(),
            "queue_behind_s": round(self.recorder.behind_s(), 1),
            "journal_bytes": self.journal.size,
            "latencies": self.recent.counts(),
            "providers": self.providers(),
        }

    def _write(self, told: dict[str, Any], checked_s: float) -> None:
        rows = Worker.objects.filter(name=self.journal.name)
        told = {**told, "config_checked_s": checked_s, "seen_at": Now()}
        if not rows.update(**told):
            Worker.objects.create(name=self.journal.name, **self.about, **told)
        if (dead := _dead()).exists():
            dead.delete()

    def _gauges(self, revision: int) -> Gauges:
        samples = [each for metric in self._process.collect() for each in metric.samples]
        return Gauges(
            at=time.time(),
            pid=self.about["pid"],
            in_flight=self.journal.in_flight,
            queue_depth=self.journal.depth(),
            queue_behind_s=self.recorder.behind_s(),
            journal_bytes=self.journal.size,
            config_revision=revision,
            local_requests=dict(under_way),
            process={each.name: each.value for each in samples},
        )


def _dead() -> QuerySet[Worker]:
    return Worker.objects.filter(seen_at__lt=Now() - timedelta(seconds=DEAD_AFTER_S))


def living_workers() -> list[tuple[Worker, datetime]]:
    """The workers of all machines, oldest first, and the database's time now."""
    rows = Worker.objects.filter(seen_at__gte=Now() - timedelta(seconds=DEAD_AFTER_S))
    return [(row, row.now) for row in rows.annotate(now=Now())]
