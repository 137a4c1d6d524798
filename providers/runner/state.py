"""What workers and child tell each other through the data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from providers.runner.catalogue import LocalModel

FailureCode = Literal["bad_checksum", "no_memory", "not_loadable"]

_MAX_LOG_BYTES = 4 << 20


class StartOrder(msgspec.Struct, frozen=True):
    """What a worker writes to a new child's standard input."""

    model: LocalModel
    data_dir: Path
    failures: int


class RunnerState(msgspec.Struct, frozen=True):
    """The state file. A state other than `failed` whose writer holds no lock any more is the trace
    of a crash."""

    status: Literal["starting", "ready", "failed"]
    pid: int
    since: float
    """Unix time at which the child started, or failed."""
    failures: int = 0
    """Crashes and failed starts in a row."""
    port: int = 0
    key: str = ""
    code: FailureCode | None = None
    message: str = ""


class StateFile(NamedTuple):
    state: RunnerState
    version: tuple[int, int]
    """Changes whenever the file is written."""


class RunnerFiles:
    """The files of one model. Every method may raise OSError."""

    def __init__(self, data_dir: Path, model_id: str) -> None:
        self.directory = data_dir / "runner"
        self._base = self.directory / model_id

    def path(self, ending: str) -> Path:
        return self._base.with_name(f"{self._base.name}.{ending}")

    def make_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def open_lease(self) -> int:
        return _open(self.path("lease"))

    def open_places(self) -> int:
        return _open(self.path("places"))

    def is_same_lease(self, lease: int) -> bool:
        """Whether the file behind `lease` is still the one in the directory: the directory may have
        been cleared under a running server."""
        try:
            return os.path.samestat(os.fstat(lease), self.path("lease").stat())
        except FileNotFoundError:
            return False

    def take_lock(self) -> int | None:
        """A descriptor that holds the model's lock, or None while a child or a starter has it."""
        lock = _open(self.path("lock"))
        if take(lock, fcntl.LOCK_EX):
            return lock
        os.close(lock)
        return None

    def is_locked(self) -> bool:
        """Whether a child lives. Looking takes the lock shared for an instant, which a starter
        that looks at the same instant takes for a child and tries again."""
        try:
            lock = os.open(self.path("lock"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            return not take(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def state_version(self) -> tuple[int, int] | None:
        try:
            return _version(self.path("json").stat())
        except FileNotFoundError:
            return None

    def read_state(self) -> StateFile | None:
        """None without a state file, or with one that cannot be understood."""
        try:
            with self.path("json").open("rb") as file:
                return StateFile(
                    msgspec.json.decode(file.read(), type=RunnerState),
                    _version(os.fstat(file.fileno())),
                )
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write_state(self, state: RunnerState) -> None:
        self.write("json", msgspec.json.encode(state))

    def remove_state(self) -> None:
        self.path("json").unlink(missing_ok=True)

    def write(self, ending: str, content: bytes) -> None:
        """Replaces a file atomically. Only the lock's holder may: the new file has one name."""
        new = self.path(f"{ending}.new")
        file = _open(new, os.O_TRUNC)
        try:
            os.write(file, content)
        finally:
            os.close(file)
        new.replace(self.path(ending))

    def open_log(self) -> int:
        log = _open(self.path("log"), os.O_APPEND)
        bound_log(log)
        return log


def take(lock: int, kind: int) -> bool:
    """Takes a flock without waiting; whether that worked."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def bound_log(log: int) -> None:
    """Empties a log that has grown past 4 MB. It is open for appending, so that whoever writes
    goes on at the new end."""
    if os.fstat(log).st_size > _MAX_LOG_BYTES:
        os.ftruncate(log, 0)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns
