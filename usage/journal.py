"""The queue of the ledger: files of lines, appended to by the event loop, read by the recorder.

    <directory>/<worker>.<random>.lock       held (flock) by the worker for as long as it lives
    <directory>/<worker>.<random>-<n>.jsonl  its segments; the newest is appended to
    <directory>/rejected.jsonl               lines no database would take; nothing deletes it

A line is handed to the kernel before the call it stands for, so that it outlives the process
(nothing is synced: a power cut may lose the last seconds). A new segment begins with the lines of
the requests in flight, so a segment can go as soon as what was closed in it is recorded, and
a worker's segments together always hold a line for each request that has no record yet.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import threading
import uuid
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from chat.errors import ServiceUnavailable
from events_app.lines import EventLine
from usage.lines import Closed, Opened, Progress, encode

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 8 * 1024 * 1024
READ_BYTES = 1024 * 1024
RETRY_AFTER_S = "5"


@dataclass(slots=True, eq=False)
class Segment:
    """One file. `size` counts whole lines, `done` the bytes that need no reading any more."""

    path: Path
    fd: int
    size: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Whole lines read from a segment, up to the offset `end`. `is_last` says that nothing more was
    written when they were read."""

    segment: Segment
    lines: list[bytes]
    end: int
    is_last: bool = False


class Journal:
    """One worker's journal. `open`, `progress` and `close` are for the event loop, `note` for any
    thread, `read` and `forget` for the recorder, in one other thread."""

    def __init__(self, directory: Path, worker_id: str, max_bytes: int) -> None:
        """`max_bytes` bounds the directory. Raises OSError when it cannot be written to."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", worker_id)[:64]
        self.directory = directory
        # Random, because a worker that comes back under its old name must find its old files.
        self.name = f"{stem}.{uuid.uuid4().hex[:12]}"
        self.other_bytes = 0
        """Size of what other workers left in the directory, by the recorder's last look."""
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._in_flight: dict[str, tuple[bytes, bytes]] = {}
        self._unwritten: deque[tuple[str, bytes]] = deque()
        self._closed = self._recorded = 0
        self._size = 0
        self._rotate_at = SEGMENT_BYTES
        self._shut = self._failing = False
        self._lock_fd = take_lock(directory, self.name)
        self._segments = deque([self._create_segment(0)])

    @property
    def in_flight(self) -> int:
        """Requests opened and not closed yet."""
        return len(self._in_flight)

    @property
    def size(self) -> int:
        """Bytes of this worker's files."""
        return self._size

    def depth(self) -> int:
        """Requests closed and not yet recorded."""
        return self._closed - self._recorded

    def is_writable(self) -> bool:
        """Whether a request can be opened now, as far as is known without trying."""
        return not (self._shut or self._failing or self._is_full())

    def open(self, line: Opened) -> None:
        """Before the upstream is asked. Raises ServiceUnavailable when the line cannot be kept:
        a request the ledger would not know of is not served."""
        encoded = encode(line)
        if self._is_full():
            raise _unavailable("The usage journal is full.")
        with self._mutex:
            if self._shut or not self._write_leftovers():
                raise _unavailable("The usage journal cannot be written.")
            if not self._append(encoded):
                raise _unavailable("The usage journal cannot be written.")
            self._in_flight[line.id] = (encoded, b"")

    def progress(self, line: Progress) -> None:
        """What is known of an open request so far; best effort."""
        encoded = encode(line)
        with self._mutex:
            opened = self._in_flight.get(line.id)
            if opened is None or self._shut:
                return
            if self._append(encoded):
                self._in_flight[line.id] = (opened[0], encoded)

    def close(self, line: Closed) -> None:
        """The outcome of a request. Never raises for want of space: the line is kept in memory
        then, and nothing is opened until it is on disk."""
        encoded = encode(line)
        with self._mutex:
            if self._shut:
                logger.warning("Request %s ended after its worker's journal.", line.request_id)
                return
            self._closed += 1
            self._unwritten.append((line.id, encoded))
            self._write_leftovers()

    def note(self, line: EventLine) -> None:
        """An event. Dropped where it cannot be kept: what happens is worth telling, but nothing
        waits or fails for the telling."""
        encoded = encode(line)
        with self._mutex:
            kept = not (self._shut or self._is_full()) and self._append(encoded)
        if not kept:
            logger.warning("An event of the type %s could not be kept.", line.type)

    def shut(self) -> None:
        """Nothing is written from here on. Leaves no file when everything is recorded; else leaves
        what there is to the next worker that looks."""
        with self._mutex:
            if self._shut:
                return
            self._write_leftovers()
            self._shut = True
            keep = bool(self._in_flight)
            for segment in self._segments:
                os.close(segment.fd)
                if segment.done == segment.size and not keep:
                    segment.path.unlink(missing_ok=True)
                else:
                    keep = True
            if not keep:
                lock_path(self.directory, self.name).unlink(missing_ok=True)
            os.close(self._lock_fd)

    # --- the recorder's side ------------------------------------------------------------------

    def read(self) -> Stretch | None:
        """The next lines not read yet, or None. The same again until `forget` is called."""
        with self._mutex:
            if self._shut:
                return None
            self._write_leftovers()
            segment, end = next(
                ((s, s.size) for s in self._segments if s.done < s.size), (self._segments[-1], 0)
            )
            is_newest = segment is self._segments[-1]
        stretch = read_lines(segment, end)
        if stretch is not None and is_newest and stretch.end == end:
            return replace(stretch, is_last=True)
        return stretch

    def forget(self, stretch: Stretch, recorded: int) -> None:
        """The stretch is in the database, with the number of closed requests in it. Deletes the
        segments that are done, and empties the newest when nothing is in flight."""
        stretch.segment.done = stretch.end
        spent = []
        with self._mutex:
            self._recorded += recorded
            while len(self._segments) > 1 and self._segments[0].done == self._segments[0].size:
                spent.append(self._segments.popleft())
                self._size -= spent[-1].size
            newest = self._segments[-1]
            if newest.size and newest.done == newest.size and not self._in_flight:
                os.ftruncate(newest.fd, 0)
                self._size -= newest.size
                newest.size = newest.done = 0
                self._rotate_at = SEGMENT_BYTES
        for segment in spent:
            os.close(segment.fd)
            segment.path.unlink(missing_ok=True)

    # --- under the mutex ----------------------------------------------------------------------

    def _is_full(self) -> bool:
        return self._size + self.other_bytes > self._max_bytes

    def _write_leftovers(self) -> bool:
        """Puts closed lines on disk; only then is their request in flight no more, so that no
        segment goes that holds the last trace of it. Returns whether all are there."""
        while self._unwritten:
            request, line = self._unwritten[0]
            if not self._append(line):
                return False
            self._unwritten.popleft()
            self._in_flight.pop(request, None)
        return True

    def _append(self, line: bytes) -> bool:
        """Returns whether the line is with the kernel, whole; else nothing of it is."""
        segment = self._segments[-1]
        if segment.size + len(line) > self._rotate_at:
            segment = self._rotate()
        try:
            _write_whole(segment, line)
        except OSError as error:
            if not self._failing:
                logger.error("The usage journal cannot be written: %s", error)
            self._failing = True
            return False
        self._failing = False
        self._size += len(line)
        return True

    def _rotate(self) -> Segment:
        """Begins a new segment with what is in flight; the old one is kept on when that fails."""
        newest = self._segments[-1]
        number = int(newest.path.stem.rpartition("-")[2]) + 1
        carried = b"".join(part for lines in self._in_flight.values() for part in lines)
        try:
            segment = self._create_segment(number)
        except OSError:
            self._rotate_at = newest.size + SEGMENT_BYTES
            return newest
        try:
            _write_whole(segment, carried)
        except OSError:
            os.close(segment.fd)
            segment.path.unlink(missing_ok=True)
            self._rotate_at = newest.size + SEGMENT_BYTES
            return newest
        self._size += segment.size
        self._rotate_at = segment.size + SEGMENT_BYTES
        self._segments.append(segment)
        return segment

    def _create_segment(self, number: int) -> Segment:
        path = self.directory / f"{self.name}-{number}.jsonl"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND
        return Segment(path, os.open(path, flags, 0o600))


def read_lines(segment: Segment, end: int) -> Stretch | None:
    """Whole lines from where the segment is done, at most READ_BYTES of them and not past `end`."""
    length = min(READ_BYTES, end - segment.done)
    if length <= 0:
        return None
    content = os.pread(segment.fd, length, segment.done)
    whole = content.rfind(b"\n") + 1
    if not whole and len(content) < READ_BYTES:
        return None
    # No line is as long as READ_BYTES: a stretch without an end is damage, passed over whole.
    content = content[:whole] if whole else content
    return Stretch(segment, content.splitlines(), segment.done + len(content))


def _write_whole(segment: Segment, line: bytes) -> None:
    written = os.write(segment.fd, line)
    if written != len(line):
        # A full disk takes what fits. The rest of the line would be read as another request's.
        os.ftruncate(segment.fd, segment.size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    segment.size += written


def _unavailable(message: str) -> ServiceUnavailable:
    return ServiceUnavailable(message, code="usage_journal_unavailable", retry_after=RETRY_AFTER_S)


# --- whose a journal is -----------------------------------------------------------------------


def lock_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.lock"


def take_lock(directory: Path, name: str) -> int:
    """A descriptor that holds the journal `name` until it is closed or its process ends. Raises
    BlockingIOError when it is another's."""
    path = lock_path(directory, name)
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        if _is_at(fd, path):
            return fd
        # Whoever held it deleted it between our two calls: our lock is on a file nobody can find.
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def journals(directory: Path) -> set[str]:
    """The names of all journals that have a file in the directory."""
    names = {path.stem for path in directory.glob("*.lock")}
    return names | {path.stem.rpartition("-")[0] for path in directory.glob("*-*.jsonl")}


def segments(directory: Path, name: str) -> list[Path]:
    """A journal's files, oldest first."""
    numbered = {
        int(number): path
        for path in directory.glob(f"{name}-*.jsonl")
        if (number := path.stem.removeprefix(f"{name}-")).isdecimal()
    }
    return [numbered[number] for number in sorted(numbered)]
