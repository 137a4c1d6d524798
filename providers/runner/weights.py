"""What must be true of a model before native code may see it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from providers.runner.catalogue import LocalModel
from providers.runner.state import FailureCode, RunnerFiles

MB = 1_000_000


class StartFailedError(Exception):
    """Why a model cannot be served, in words for the caller of the API."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Verified(msgspec.Struct, frozen=True):
    """A file's identity at the time its checksum was computed."""

    path: str
    size: int
    modified_ns: int
    inode: int
    sha256: str


def verify_weights(model: LocalModel, files: RunnerFiles) -> None:
    """Compares the file's checksum with the expected one, once for each file: hashing takes a
    second per gigabyte. Without an expected one there is nothing to do. Raises StartFailedError
    and OSError."""
    if not model.sha256:
        return
    status = model.path.stat()
    expected = Verified(
        path=str(model.path),
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        inode=status.st_ino,
        sha256=model.sha256,
    )
    if _read_verified(files) == expected:
        return
    with model.path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != model.sha256:
            raise StartFailedError(
                "bad_checksum",
                f"The weights file of {model.name} ({model.path.name}) has the wrong checksum: it "
                "is damaged or has been replaced. Install it again.",
            )
    files.write("verified.json", msgspec.json.encode(expected))


def _read_verified(files: RunnerFiles) -> Verified | None:
    try:
        return msgspec.json.decode(files.path("verified.json").read_bytes(), type=Verified)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def require_memory(model: LocalModel) -> None:
    """Raises StartFailedError where the model does not fit: without this the kernel would kill the
    child, or a neighbour, in the middle of an answer."""
    available = available_memory()
    if available is not None and available < model.memory_bytes:
        raise StartFailedError(
            "no_memory",
            f"There is not enough memory for {model.name}: it needs {model.memory_bytes // MB} MB, "
            f"{available // MB} MB are available.",
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be had without swapping: the least of what the machine and its cgroup leave.
    None where the system does not tell (anything but Linux)."""
    limits = [_machine_memory(root / "proc/meminfo"), _cgroup_memory(root / "sys/fs/cgroup")]
    return min((limit for limit in limits if limit is not None), default=None)


def _machine_memory(meminfo: Path) -> int | None:
    kilobytes = _fields(meminfo).get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _cgroup_memory(cgroup: Path) -> int | None:
    """Room under the limit a container sees as its root (cgroup v2); pages of files count as room,
    as the kernel gives them back first."""
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return None  # no cgroup v2, or the limit is the word "max"
    return max(limit - used + _fields(cgroup / "memory.stat").get("inactive_file", 0), 0)


def _fields(file: Path) -> dict[str, int]:
    try:
        rows = (line.split() for line in file.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1}
    except (OSError, ValueError):
        return {}
