"""What the workers of one data directory have counted: a file for each, added up when asked.

    <directory>/<journal>.tally    what this worker's recorder has counted since its start
    <directory>/<journal>.gauges   how its worker is now (`usage.gauges`)
    <directory>/.lock              held shared by who adds up, alone by who takes files away

A file is replaced whole, so that the counts in it and the mark of the line up to which they go are
of one moment: a line counts once, however often its journal is read and whoever reads it. A dead
worker's file is taken over by the one that adopts its journal. Counts are never set back: a counter
goes on where the servers before it stopped.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from events_app.lines import EventLine
from usage.lines import Closed, Line
from usage.metering import AUTH_FAILURES, REFUSALS, Family, Meter, Series

logger = logging.getLogger(__name__)

VERSION = 1
SUFFIX = ".tally"
END = "end"
"""The mark of a journal in which nothing is left to count."""
_COUNTED = re.compile(rb'\{"line":"(?:closed|event)","id":"([^"]*)"')

noted: dict[Family, int] = {REFUSALS: 0, AUTH_FAILURES: 0}
"""What the event loop counts itself, since the process began: no line tells of it."""


def note(family: Family) -> None:
    """Counts one, at the cost of an addition. For the event loop."""
    noted[family] += 1


class _Counted(Struct, kw_only=True):
    """The content of a file."""

    version: int
    series: Series
    marks: dict[str, list[str]] = {}
    """By journal, ids of lines: up to the last of them its lines are counted."""
    absorbed: list[str] = []
    """Workers whose counts are in these, and whose files may be there yet."""


class Tally:
    """The counts of one worker. For one thread, the recorder's."""

    def __init__(self, directory: Path, name: str) -> None:
        """`name` is the worker's journal's. Raises OSError when the directory cannot be made."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.name = name
        self._counted = _Counted(version=VERSION, series=Series())
        self._meter = Meter(self._counted.series)
        self._taken = dict(noted)
        self._failing = self._is_over = False
        self._ahead = 0
        self._behind: set[str] = set()

    def count_own(self, lines: Sequence[Line], refused: frozenset[str]) -> list[Line]:
        """Counts what the worker's own journal tells, but for lines no database takes; returns
        what was counted. To be called before the lines are forgotten."""
        marks = self._counted.marks.get(self.name, [])
        known = max((at for at, line in enumerate(lines) if _has(line, marks)), default=-1)
        return self._count(lines[known + 1 :], self.name, refused)

    def begin(self, journal: str, raw: Iterable[bytes]) -> None:
        """A dead worker's journal will be counted, whose lines are `raw` from its beginning: what
        others have counted of it is passed over."""
        marks = {mark for each in self._all() for mark in each.marks.get(journal, ())}
        self._is_over = END in marks
        self._ahead = sum(1 for line in raw if _id(line) in marks) if marks else 0
        self._behind = marks

    def count_orphan(
        self, lines: Sequence[Line], journal: str, refused: frozenset[str]
    ) -> list[Line]:
        """`count_own` for the journal begun, stretch by stretch."""
        start = 0
        for at, line in enumerate(lines):
            if not self._ahead:
                break
            self._ahead -= _has(line, self._behind)
            start = at + 1
        return [] if self._is_over else self._count(lines[start:], journal, refused)

    def end(self, lines: Sequence[Line], journal: str, refused: frozenset[str]) -> list[Line]:
        """Counts how the journal's open requests ended: with that it is counted whole, and may be
        deleted."""
        if self._is_over:
            return []
        return self._count(lines, journal, refused, mark=END)

    def _count(
        self, lines: Sequence[Line], journal: str, refused: frozenset[str], *, mark: str = ""
    ) -> list[Line]:
        told = [line for line in lines if isinstance(line, Closed | EventLine)]
        if not told and not mark:
            return []
        counted: list[Line] = [line for line in told if line.id not in refused]
        self._meter.count(counted)
        self._counted.marks[journal] = [mark or told[-1].id]
        self.save()
        return counted

    def count_noted(self) -> None:
        """Takes in what the event loop has counted."""
        if noted == self._taken:
            return
        for family, number in list(noted.items()):
            if number != self._taken[family]:
                self._meter.series.add(family, (), number - self._taken[family])
                self._taken[family] = number
        self.save()

    def absorb(self, name: str, *, journals: set[str]) -> None:
        """Takes over the file of a dead worker whose journal is gone; `journals` are there yet."""
        with _locked(self.directory, fcntl.LOCK_EX):
            others = {path.stem: _read(path) for path in self.directory.glob(f"*{SUFFIX}")}
            known = {each for other in others.values() if other for each in other.absorbed}
            found = others.get(name)
            if found is not None and name not in known:
                self._take(found)
                self._counted.absorbed = [name, *found.absorbed]
                self.save()
            for each in (name, *(found.absorbed if found else ())):
                for path in self.directory.glob(f"{each}.*"):
                    path.unlink(missing_ok=True)
            self._counted.absorbed = []
            marks = self._counted.marks
            self._counted.marks = {each: marks[each] for each in marks if each in journals}
            self.save()

    def _take(self, other: _Counted) -> None:
        self._counted.series.merge(other.series)
        self._meter.know(other.series)
        for journal, marks in other.marks.items():
            self._counted.marks.setdefault(journal, []).extend(marks)

    def _all(self) -> list[_Counted]:
        paths = self.directory.glob(f"*{SUFFIX}")
        return [found for path in paths if (found := _read(path)) is not None]

    def save(self) -> None:
        """Replaces the file. Where that fails the counts stay in memory."""
        try:
            replace(self.directory / f"{self.name}{SUFFIX}", msgspec.msgpack.encode(self._counted))
        except OSError as error:
            if not self._failing:
                logger.error("Counts for metrics cannot be written: %s", error)
            self._failing = True
        else:
            self._failing = False


def add_up(directory: Path) -> Series:
    """What all workers of a data directory, dead ones included, have counted."""
    total = Series()
    if not directory.is_dir():
        return total
    with _locked(directory, fcntl.LOCK_SH):
        found = {path.stem: _read(path) for path in directory.glob(f"*{SUFFIX}")}
    absorbed = {name for each in found.values() if each for name in each.absorbed}
    for name, each in found.items():
        if each is not None and name not in absorbed:
            total.merge(each.series)
    return total


def names(directory: Path) -> set[str]:
    """The workers that have left a file."""
    return {path.stem for path in directory.glob(f"*{SUFFIX}")}


def replace(path: Path, content: bytes) -> None:
    """Puts a file in the place of another, whole. Raises OSError."""
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_bytes(content)
    new.replace(path)


def _read(path: Path) -> _Counted | None:
    try:
        found = _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        logger.warning("%s cannot be read, and counts for nothing: %s", path.name, error)
        return None
    return found if found.version == VERSION else None


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    fd = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def _has(line: Line, marks: Iterable[str]) -> bool:
    return isinstance(line, Closed | EventLine) and line.id in marks


def _id(line: bytes) -> str:
    found = _COUNTED.match(line)
    return found[1].decode() if found else ""


_decoder = msgspec.msgpack.Decoder(_Counted)
