"""How the workers of one data directory are now: a small file for each, beside its tally.

Apart from the database, because a journal that grows while that is away has to be seen.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from usage.tally import replace

SUFFIX = ".gauges"
STALE_S = 30.0
"""A file that is older is a dead worker's."""


class Gauges(Struct, kw_only=True):
    at: float
    """Seconds since 1970."""
    pid: int
    in_flight: int = 0
    queue_depth: int = 0
    queue_behind_s: float = 0.0
    journal_bytes: int = 0
    config_revision: int = 0
    local_requests: dict[str, int] = {}
    """Answered or waiting, by local model."""
    process: dict[str, float] = {}
    """By the names of prometheus_client's ProcessCollector."""


def write(directory: Path, name: str, gauges: Gauges) -> None:
    """Raises OSError."""
    replace(directory / f"{name}{SUFFIX}", msgspec.msgpack.encode(gauges))


def remove(directory: Path, name: str) -> None:
    (directory / f"{name}{SUFFIX}").unlink(missing_ok=True)


def read_all(directory: Path) -> list[Gauges]:
    """Of all workers that live."""
    found: list[Gauges] = []
    for path in directory.glob(f"*{SUFFIX}"):
        with suppress(OSError, ValueError):
            found.append(_decoder.decode(path.read_bytes()))
    return [each for each in found if time.time() - each.at < STALE_S]


_decoder = msgspec.msgpack.Decoder(Gauges)
