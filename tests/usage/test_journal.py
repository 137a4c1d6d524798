"""The journal's files, without a database."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chat.errors import ServiceUnavailable
from tests.usage.requests import closed, opened, serve
from usage import journal as journal_module
from usage.journal import Journal, segments, take_lock
from usage.lines import MAX_LINE, Closed, Line, Opened, Progress, decode, encode


def written(directory: Path) -> list[Line]:
    return [
        decode(line)
        for path in sorted(directory.glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


def drain(journal: Journal) -> list[bytes]:
    """What a recorder reads, taken as recorded."""
    lines: list[bytes] = []
    while stretch := journal.read():
        lines += stretch.lines
        closed_lines = sum(isinstance(decode(line), Closed) for line in stretch.lines)
        journal.forget(stretch, closed_lines)
    return lines


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """As on a full disk: the kernel takes what fits of a write, and refuses the next."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_opened_line_is_in_the_file_when_open_returns(journal: Journal, directory: Path) -> None:
    line = opened()
    journal.open(line)
    assert written(directory) == [line]


def test_depth_counts_what_is_closed_and_in_flight_what_is_not(journal: Journal) -> None:
    serve(journal, 2)
    journal.open(opened())
    assert (journal.depth(), journal.in_flight) == (2, 1)


def test_lines_are_read_again_until_they_are_forgotten(journal: Journal) -> None:
    serve(journal)
    first, again = journal.read(), journal.read()
    assert first is not None
    assert again is not None
    assert first.lines == again.lines


def test_a_recorded_journal_with_nothing_in_flight_is_empty(
    journal: Journal, directory: Path
) -> None:
    serve(journal, 5)
    drain(journal)
    assert (journal.depth(), journal.size, written(directory)) == (0, 0, [])


def test_recorded_lines_stay_while_a_request_is_in_flight(
    journal: Journal, directory: Path
) -> None:
    line = opened()
    journal.open(line)
    drain(journal)
    assert written(directory) == [line]


def test_an_old_segment_goes_when_it_is_recorded_though_a_request_of_it_is_in_flight(
    journal: Journal, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 4096)
    journal._rotate_at = 4096
    long = opened(request_id="long")
    journal.open(long)
    journal.progress(Progress(id=long.id, tokens_output_estimate=7))
    ids = serve(journal, 40)
    assert len(segments(directory, journal.name)) > 5
    lines = [decode(line) for line in drain(journal)]
    assert [line.id for line in lines if isinstance(line, Closed)] == ids
    assert len(segments(directory, journal.name)) == 1
    left = written(directory)
    assert left[:2] == [long, Progress(id=long.id, tokens_output_estimate=7)]


def test_a_journal_past_its_bound_opens_nothing_and_still_closes(directory: Path) -> None:
    journal = Journal(directory, "w", max_bytes=2000)
    lines = [opened() for _ in range(10)]
    served = []
    with pytest.raises(ServiceUnavailable) as refusal:
        for line in lines:
            journal.open(line)
            served.append(line)
    assert refusal.value.retry_after is not None
    assert not journal.is_writable()
    for line in served:
        journal.close(closed(id=line.id))
    assert (journal.in_flight, journal.depth()) == (0, len(served))
    journal.shut()


def test_a_journal_opens_again_once_it_is_recorded(directory: Path) -> None:
    journal = Journal(directory, "w", max_bytes=1500)
    serve(journal, 2)
    with pytest.raises(ServiceUnavailable):
        journal.open(opened())
    drain(journal)
    journal.open(opened())
    journal.shut()


def test_a_request_whose_line_does_not_fit_on_the_disk_is_refused(
    journal: Journal, directory: Path
) -> None:
    first = opened()
    journal.open(first)
    with files_at_most(journal.size + 100), pytest.raises(ServiceUnavailable):
        journal.open(opened())
    assert written(directory) == [first]
    assert journal.in_flight == 1


def test_an_outcome_that_does_not_fit_on_the_disk_is_kept_and_written_later(
    journal: Journal, directory: Path
) -> None:
    line = opened()
    journal.open(line)
    outcome = closed(id=line.id)
    with files_at_most(journal.size + 100):
        journal.close(outcome)
        with pytest.raises(ServiceUnavailable):
            journal.open(opened())
        assert written(directory) == [line]
    journal.open(opened())
    assert written(directory)[1] == outcome


def test_a_failed_rotation_keeps_the_old_segment_on(
    journal: Journal, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    journal._rotate_at = 1000
    taken = directory / f"{journal.name}-1.jsonl"
    taken.touch()
    ids = serve(journal, 3)
    taken.unlink()
    assert [line.id for line in written(directory) if isinstance(line, Closed)] == ids


def test_a_line_stays_short_whatever_a_caller_names_a_model() -> None:
    encoded = encode(opened(model="m" * 1_000_000))
    assert len(encoded) < MAX_LINE
    line = decode(encoded)
    assert isinstance(line, Opened)
    assert line.model == "m" * 300


def test_a_live_journal_cannot_be_taken(journal: Journal, directory: Path) -> None:
    with pytest.raises(BlockingIOError):
        take_lock(directory, journal.name)


def test_a_lock_on_a_file_that_was_deleted_meanwhile_does_not_count(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir()
    deletions = iter([directory / "w.lock"])
    flock = fcntl.flock

    def flock_too_late(fd: int, operation: int) -> None:
        for path in deletions:
            path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_too_late)
    fd = take_lock(directory, "w")
    assert os.path.samestat(os.fstat(fd), (directory / "w.lock").stat())
    os.close(fd)


def test_two_workers_of_one_name_have_two_journals(journal: Journal, directory: Path) -> None:
    twin = Journal(directory, "worker-1", max_bytes=1 << 30)
    assert twin.name != journal.name
    twin.shut()


def test_a_shut_journal_leaves_no_file_when_all_is_recorded(
    journal: Journal, directory: Path
) -> None:
    serve(journal, 3)
    drain(journal)
    journal.shut()
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("in_flight", [True, False])
def test_a_shut_journal_leaves_what_is_not_recorded(
    journal: Journal, directory: Path, in_flight: bool
) -> None:
    if in_flight:
        journal.open(opened())
        drain(journal)
    else:
        serve(journal)
    before = written(directory)
    journal.shut()
    assert written(directory) == before != []
    os.close(take_lock(directory, journal.name))


def test_a_shut_journal_opens_nothing(journal: Journal) -> None:
    journal.shut()
    with pytest.raises(ServiceUnavailable):
        journal.open(opened())


def test_others_cannot_read_the_journal(journal: Journal, directory: Path) -> None:
    serve(journal)
    modes = {path.stat().st_mode & 0o077 for path in [directory, *directory.iterdir()]}
    assert modes == {0}
