"""What runs beside the requests of a worker: one thread that follows the configuration, one that
empties the journal into the database, one that tells how the worker is, one that deletes what has
expired.

Threads, not tasks: a database that does not answer must not stop the event loop, and daphne has no
place to start tasks. Several, because a slow flush must not delay a revocation.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db import DatabaseError, Error, connection
from django.utils import timezone

from events_app import retention as events
from events_app.publishing import install_sink, publish
from gateway_api.resources import install_journal
from gateway_site import __version__
from gateway_site.tracing import Traces, start_tracing
from keys.ring import ring
from providers import health, snapshot
from providers.snapshot import Snapshot
from sessions_app import retention as sessions
from tools_app import snapshot as tools
from usage.heartbeat import Configured, Heartbeat
from usage.journal import Journal
from usage.pricing import load_catalogue
from usage.recent import Recent
from usage.recorder import Recorder
from usage.tally import Tally

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""A change of the configuration is in force in every worker within twice this."""

PRUNE_EVERY_S = 60.0


class Background:
    """The threads of one worker process."""

    def __init__(self) -> None:
        self.running = False
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._journal: Journal | None = None
        self._traces: Traces | None = None

    def start(self) -> None:
        """Opens the journal, reads the configuration and starts the threads; once. Raises OSError
        when the data directory cannot be written to. A database that is away is waited for by the
        threads: requests get 503 until it is back."""
        with self._mutex:
            if self.running:
                return
            self._stopping.clear()
            worker = f"{socket.gethostname()}-{os.getpid()}"
            self._journal = Journal(
                settings.DATA_DIR / "journal", worker, settings.JOURNAL_MAX_BYTES
            )
            install_journal(self._journal)
            install_sink(self._journal.note)
            Follower().step()
            connection.close()
            tally = Tally(settings.DATA_DIR / "metrics", self._journal.name)
            recent = Recent()
            traces = start_tracing()
            listeners = [recent.add, *([traces.tell] if traces is not None else [])]
            recorder = Recorder(self._journal, tally, listeners)
            heartbeat = Heartbeat(
                tally.directory, self._journal, recorder, recent, _about(), _configured, _providers
            )
            heartbeat.step()  # before the first request: a server that answers has a worker
            self._traces = traces
            self._threads = [
                self._thread("configuration", Follower().step, POLL_S),
                self._thread("recorder", recorder.flush, POLL_S, recorder.stop),
                self._thread("heartbeat", heartbeat.step, POLL_S, heartbeat.stop),
                self._thread("retention", _prune, PRUNE_EVERY_S),
                threading.Thread(target=load_catalogue, name="price-catalogue", daemon=True),
            ]
            for thread in self._threads:
                thread.start()
            self.running = True

    def stop(self) -> None:
        """Ends the threads; what the journal holds is recorded first, if the database takes it."""
        with self._mutex:
            if not self.running:
                return
            self._stopping.set()
            for thread in self._threads:
                thread.join(timeout=15)
            install_journal(None)
            install_sink(None)
            if self._journal is not None:
                self._journal.shut()
            if self._traces is not None:
                self._traces.stop()
            self.running = False

    def _thread(
        self,
        name: str,
        step: Callable[[], object],
        every_s: float,
        at_end: Callable[[], None] | None = None,
    ) -> threading.Thread:
        def run() -> None:
            while not self._stopping.wait(every_s):
                try:
                    step()
                except Exception:  # an edge: this thread must outlive whatever goes wrong in it
                    logger.exception("The background thread %r failed; it goes on.", name)
                    with suppress(Error):
                        connection.close()
            if at_end is not None:
                at_end()
            connection.close()

        return threading.Thread(target=run, name=name, daemon=True)


def _prune() -> None:
    events.prune_expired()
    sessions.prune_expired()


def _about() -> dict[str, Any]:
    return {
        "host": socket.gethostname()[:100],
        "pid": os.getpid(),
        "version": __version__,
        "started_at": timezone.now(),
    }


def _configured() -> Configured:
    return Configured(snapshot.current().revision, ring.confirmed_ago_s())


def _providers() -> dict[str, Any]:
    return {name: list(each) for name, each in health.checked(snapshot.current()).items()}


class Follower:
    """Keeps the snapshot and the key ring at the database's revision."""

    def __init__(self) -> None:
        self._away = False

    def step(self) -> None:
        # The order matters: the ring may be filled again from the moment it is emptied, and must
        # not be confirmed before that.
        try:
            tools.refresh()
            known = snapshot.current()
            if snapshot.refresh():
                ring.forget()
                _tell_change(known, snapshot.current().revision)
        except (DatabaseError, Error) as error:
            self._lose(error)
            return
        ring.confirm()
        if self._away:
            logger.warning("The database is back.")
            self._away = False

    def _lose(self, error: Exception) -> None:
        ring.lose()
        with suppress(Error):
            connection.close()
        if not self._away:
            logger.error("The database is away; known keys and settings stay in force: %s", error)
            self._away = True


def _tell_change(before: Snapshot, revision: int) -> None:
    """Every worker tells it; under one id, so that it is told once."""
    if before is not snapshot.EMPTY:
        id_ = uuid.uuid5(_CHANGES, str(revision)).hex
        publish("config_changed", {"revision": revision}, id_=id_)


_CHANGES = uuid.UUID("5d0a1c52-3c0e-4a4e-9b2c-8f1f4a1f7a10")
