"""Takes the ledger from the journals to the database. Runs in one thread of each worker."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import msgspec
from django.db import DataError, Error, IntegrityError, close_old_connections

from events_app import insertion as event_insertion
from events_app.doorbell import doorbell
from events_app.lines import EventLine
from usage import insertion
from usage.journal import (
    Journal,
    Segment,
    journals,
    lock_path,
    read_lines,
    segments,
    take_lock,
)
from usage.lines import Closed, Line, Opened, Progress, decode, interrupted, is_progress
from usage.models import Worker
from usage.tally import Tally
from usage.tally import names as tally_names
from usage.told import events_of

logger = logging.getLogger(__name__)

ADOPT_EVERY_S = 10.0
FLUSH_S = 0.25
"""How long one flush may take: the backlog of an outage must not hold up a stop."""

Listener = Callable[[Sequence[Line]], None]

REFUSED = (DataError, IntegrityError, ArithmeticError, ValueError)
"""What a database says of a row it will never take, and what is raised before it is asked."""


class Recorder:
    """Empties one worker's journal, and those whose worker is dead, into the database."""

    def __init__(
        self, journal: Journal, tally: Tally | None = None, listeners: Iterable[Listener] = ()
    ) -> None:
        """`listeners` are told what the tally counts: each line once, as it was recorded."""
        self._journal = journal
        self._tally = tally
        self._listeners = tuple(listeners)
        self._adoption: Generator[None] | None = None
        self._next_adoption = 0.0
        self._away = False
        self._caught_up_at = time.monotonic()

    def behind_s(self) -> float:
        """For how long what the worker's journal holds has not been recorded whole."""
        return time.monotonic() - self._caught_up_at if self._journal.depth() else 0.0

    def flush(self, *, seconds: float = FLUSH_S) -> bool:
        """Records what was closed before this call; returns whether all of it is recorded now.

        Stops after about so many seconds; what is left, because of them or because the database is
        away, stays in the files for the next flush. Looks for dead workers' journals every
        ADOPT_EVERY_S. Raises OSError when a journal cannot be read.
        """
        deadline = time.monotonic() + seconds
        try:
            close_old_connections()
            return self._empty_own(deadline) and self._adopt(deadline)
        except Error as error:
            self._tell_outage(error)
            return False
        finally:
            close_old_connections()
            if self._tally is not None:
                self._tally.count_noted()

    def adopt_orphans(self, *, seconds: float = FLUSH_S) -> bool:
        """Looks for dead workers' journals now; else as `flush`."""
        self._next_adoption = 0.0
        return self.flush(seconds=seconds)

    def stop(self, *, seconds: float = 10.0) -> None:
        """Records what is left and shuts the journal; leaves no file if the time was enough and
        every request is closed."""
        if self._adoption:
            self._adoption.close()
            self._adoption = None
        self._next_adoption = float("inf")
        self.flush(seconds=seconds)
        self._journal.shut()

    def _empty_own(self, deadline: float) -> bool:
        while stretch := self._journal.read():
            lines = self._decoded_all(stretch.lines)
            refused = self._record(lines)
            if self._tally is not None:
                self._pass_on(self._tally.count_own(lines, refused))
            self._journal.forget(stretch, sum(isinstance(line, Closed) for line in lines))
            if stretch.is_last:
                self._caught_up_at = time.monotonic()
                # What was closed meanwhile waits for the next flush: under load this would go on
                # in ever smaller transactions, each of which fights the event loop for its lock.
                return True
            if time.monotonic() > deadline:
                return False
        self._caught_up_at = time.monotonic()
        return True

    def _pass_on(self, counted: Sequence[Line]) -> None:
        for listener in self._listeners:
            listener(counted)

    def _decoded_all(self, lines: Iterable[bytes]) -> list[Line]:
        found = (self._decoded(line) for line in lines if not is_progress(line))
        return [line for line in found if line is not None]

    def _decoded(self, line: bytes) -> Line | None:
        try:
            return decode(line)
        except ValueError as error:
            self._reject(line, error)
            return None

    # --- dead workers -------------------------------------------------------------------------

    def _adopt(self, deadline: float) -> bool:
        """One step after the other through all orphans, until the deadline."""
        if self._adoption is None and time.monotonic() >= self._next_adoption:
            self._adoption = self._adopt_all()
        while self._adoption is not None:
            try:
                next(self._adoption)
            except StopIteration:
                self._adoption = None
                self._next_adoption = time.monotonic() + ADOPT_EVERY_S
            except Error:
                self._adoption = None
                self._next_adoption = time.monotonic() + ADOPT_EVERY_S
                raise
            if self._adoption and time.monotonic() > deadline:
                return False
        return True

    def _adopt_all(self) -> Generator[None]:
        directory = self._journal.directory
        names = journals(directory) - {self._journal.name}
        self._journal.other_bytes = sum(
            _size(path) for name in names for path in segments(directory, name)
        )
        if self._tally is not None:
            names |= tally_names(self._tally.directory) - {self._journal.name}
        for name in sorted(names):
            try:
                fd = take_lock(directory, name)
            except BlockingIOError:
                continue  # its worker lives, or a peer adopts it
            try:
                yield from self._adopt_one(name)
                Worker.objects.filter(name=name).delete()
                if self._tally is not None:
                    self._tally.absorb(name, journals=journals(directory))
                lock_path(directory, name).unlink(missing_ok=True)
            finally:
                os.close(fd)

    def _adopt_one(self, name: str) -> Generator[None]:
        """Records a journal's closed requests, then its open ones as interrupted, and deletes it.
        May stop anywhere and begin again: records are known by their id."""
        paths = segments(self._journal.directory, name)
        opened: dict[str, Opened] = {}
        progress: dict[str, Progress] = {}
        if self._tally is not None:
            self._tally.begin(name, (line for path in paths for line in _lines(path)))
        for path in paths:
            for lines in _stretches(path):
                decoded = [line for line in map(self._decoded, lines) if line is not None]
                for line in decoded:
                    match line:
                        case Opened():
                            opened[line.id] = line
                        case Progress():
                            progress[line.id] = line
                        case Closed():
                            opened.pop(line.id, None)
                            progress.pop(line.id, None)
                refused = self._record(decoded)
                if self._tally is not None:
                    self._pass_on(self._tally.count_orphan(decoded, name, refused))
                yield
        if opened:
            logger.warning("%d requests of the worker %s were cut off.", len(opened), name)
        ended = [interrupted(line, progress.get(line.id)) for line in opened.values()]
        refused = self._record(ended)
        if self._tally is not None:
            self._pass_on(self._tally.end(ended, name, refused))
        for path in paths:
            path.unlink(missing_ok=True)

    # --- rows ---------------------------------------------------------------------------------

    def _record(self, lines: Sequence[Line]) -> frozenset[str]:
        """Records what was closed in the lines, then what they tell; returns the ids of what was
        put aside. Raises django.db.Error when the database is away, or takes none of several
        records."""
        refused = self._record_closed([line for line in lines if isinstance(line, Closed)])
        self._tell([event for line in lines for event in events_of(line)])
        return refused

    def _tell(self, events: Sequence[EventLine]) -> None:
        """Apart from the records, in a transaction that can be short: one worker at a time has
        it. Between the two the worker may be killed; the lines then come again."""
        if not events:
            return
        try:
            event_insertion.insert(events)
        except REFUSED:
            self._tell_singly(events)
        doorbell.ring()

    def _tell_singly(self, events: Sequence[EventLine]) -> None:
        """What no row can be made of is given up: the ledger must not wait for it."""
        for event in events:
            try:
                event_insertion.insert([event])
            except REFUSED as error:
                logger.error("An event of the type %s was refused: %s", event.type, error)

    def _record_closed(self, lines: Sequence[Closed]) -> frozenset[str]:
        refused: frozenset[str] = frozenset()
        if not lines:
            return refused
        try:
            insertion.record(lines)
        except REFUSED as error:
            if len(lines) == 1:
                self._reject(msgspec.json.encode(lines[0]), error)
                return frozenset([lines[0].id])
            refused = self._record_singly(lines)
        self._tell_return()
        return refused

    def _record_singly(self, lines: Sequence[Closed]) -> frozenset[str]:
        refused: list[tuple[Closed, Exception]] = []
        for line in lines:
            try:
                insertion.record([line])
            except REFUSED as error:
                refused.append((line, error))
        if len(refused) == len(lines):
            # Not the rows are wrong but the table: another version's migration, for one.
            raise Error("The database takes no usage record.") from refused[0][1]
        for line, cause in refused:
            self._reject(msgspec.json.encode(line), cause)
        return frozenset(line.id for line, _ in refused)

    def _reject(self, line: bytes, error: Exception) -> None:
        """Keeps a line aside that cannot become a record. In a file named `<any>-0.jsonl` in the
        same directory it is tried again."""
        path = self._journal.directory / "rejected.jsonl"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            os.write(fd, line + b"\n")
        finally:
            os.close(fd)
        logger.error("A usage record was put aside in %s: %s", path.name, error)

    def _tell_outage(self, error: Error) -> None:
        if not self._away:
            logger.warning("Usage records wait in the journal: %s", error)
        self._away = True

    def _tell_return(self) -> None:
        if self._away:
            logger.info("Usage records reach the database again.")
        self._away = False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _lines(path: Path) -> Generator[bytes]:
    for lines in _stretches(path):
        yield from lines


def _stretches(path: Path) -> Generator[list[bytes]]:
    """A dead worker's lines, in pieces; without a last one that it was killed in the middle of."""
    fd = os.open(path, os.O_RDONLY)
    try:
        segment = Segment(path, fd, size=os.fstat(fd).st_size)
        while stretch := read_lines(segment, segment.size):
            yield stretch.lines
            segment.done = stretch.end
        if torn := segment.size - segment.done:
            logger.warning("%s ends in the middle of a line, after %d bytes.", path.name, torn)
    finally:
        os.close(fd)
