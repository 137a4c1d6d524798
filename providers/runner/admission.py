"""How many requests, of all workers, may be on their way to a local model.

llama.cpp's own queue knows no bound, and each request that waits there holds a thread. Our own
server has a queue of its own, which all workers share.

Each place is one byte of a file, and who is admitted holds the lock on it: the kernel gives back
what a killed worker held.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from chat.errors import UpstreamFailed, UpstreamRateLimited
from providers.runner.catalogue import LocalModel
from providers.runner.state import RunnerFiles

_RETRY_AFTER_S = 1

under_way: Counter[str] = Counter()
"""This process's requests that a local model answers or that wait for it, by the model's name. What
was asked once stays, with 0."""


@contextmanager
def admitted(model: LocalModel, *, data_dir: Path) -> Iterator[None]:
    """Holds a place while it lasts. Raises UpstreamRateLimited where too many wait, and
    UpstreamFailed where the data directory cannot be written. A queue that is full, here or at our
    own server, is no failure of the model."""
    under_way[model.name] += 1
    try:
        with _place_in_queue(model, data_dir):
            yield
    except UpstreamRateLimited as full:
        full.is_fault = False
        raise
    finally:
        under_way[model.name] -= 1


@contextmanager
def _place_in_queue(model: LocalModel, data_dir: Path) -> Iterator[None]:
    if model.engine != "llama":
        yield
        return
    try:
        places = _places(data_dir, model.id)
    except OSError as error:
        raise UpstreamFailed(
            f"The runner of {model.name} cannot be started: {error.strerror}."
        ) from error
    place = places.take(model.slots + model.queue)
    if place is None:
        raise UpstreamRateLimited(
            f"The local model {model.name} answers {model.slots} at a time, and {model.queue} are "
            "waiting already.",
            code="queue_full",
            retryable=True,
            retry_after=str(_RETRY_AFTER_S),
        )
    try:
        yield
    finally:
        places.give_back(place)


class _Places:
    """The places this process holds. Its locks end with the first descriptor of the file that it
    closes, so that there is one, which stays open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held: set[int] = set()

    def take(self, places: int) -> int | None:
        for place in range(places):
            # A process may lock again what it holds: its own are told apart here.
            if place not in self._held and self._lock(place):
                self._held.add(place)
                return place
        return None

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            return False
        return True

    def give_back(self, place: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)
        self._held.discard(place)


@cache
def _places(data_dir: Path, model_id: str) -> _Places:
    files = RunnerFiles(data_dir, model_id)
    files.make_directory()
    return _Places(files.open_places())
