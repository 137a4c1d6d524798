"""When an upstream is given a rest: a deployment whose calls fail is not asked for a while, then by
one call first.

    closed     every call is made. With so many failures in the window, and so large a part of its
               calls, it opens.
    open       none is made for so many seconds.
    half open  one call is: it closes when that is answered, and opens anew when it fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

BUCKETS = 30
"""Of a window: its calls are counted together by the thirtieth part."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Limits:
    """What opens a breaker, and for how long. It opens never where `failures` is 0."""

    failures: int = 5
    rate: float = 0.5
    window_s: float = 30.0
    open_s: float = 30.0

    def are_passed(self, calls: int, failures: int) -> bool:
        """Whether so many failures of so many calls are too many."""
        return 0 < self.failures <= failures and failures >= self.rate * calls


class Standing(NamedTuple):
    """How a breaker is, as all workers know it."""

    state: State = State.CLOSED
    until: float = 0.0
    """Seconds since 1970. Of an open one: when a call may be tried; of a half open one: when the
    call that is tried is given up."""
    version: int = 0
    """Grows with every change. The shared one is in force; UNTOLD is a worker's own, that could not
    share it."""


UNTOLD = -1
CLOSED = Standing()


class Bucket(NamedTuple):
    """Some calls and their failures, made from `start` on (seconds since 1970)."""

    start: float
    calls: int
    failures: int


class Window:
    """The calls of the last seconds."""

    __slots__ = ("_buckets", "seconds")

    def __init__(self, seconds: float, buckets: Iterable[Bucket] = ()) -> None:
        self.seconds = seconds
        self._buckets: deque[list[float]] = deque(map(list, buckets))

    def add(self, at: float, *, calls: int = 1, failures: int = 0) -> None:
        buckets = self._buckets
        if not buckets or at - buckets[-1][0] >= self.seconds / BUCKETS:
            buckets.append([at, 0, 0])
            self._forget(at - self.seconds)
        last = buckets[-1]
        last[1] += calls
        last[2] += failures

    def _forget(self, before: float) -> None:
        while self._buckets and self._buckets[0][0] < before:
            self._buckets.popleft()

    def buckets(self, now: float) -> list[Bucket]:
        """What is not older than the window, oldest first."""
        self._forget(now - self.seconds)
        return [Bucket(start, int(calls), int(failed)) for start, calls, failed in self._buckets]

    def counts(self, now: float) -> tuple[int, int]:
        """Calls and failures."""
        buckets = self.buckets(now)
        return sum(each.calls for each in buckets), sum(each.failures for each in buckets)

    def clear(self) -> None:
        self._buckets.clear()


class Breaker:
    """One deployment's, in one worker."""

    __slots__ = ("is_asking", "is_telling", "key", "limits", "standing", "untold", "window")

    def __init__(self, key: tuple[str, str], limits: Limits) -> None:
        """`key`: the provider's name and the upstream's of the model."""
        self.key = key
        self.limits = limits
        self.standing = CLOSED
        self.window = Window(limits.window_s)
        self.untold = Window(limits.window_s)
        """What of it other workers have not been told."""
        self.is_telling = self.is_asking = False

    @property
    def is_closed(self) -> bool:
        return self.standing.state is State.CLOSED

    def count(self, now: float, *, failures: int = 0) -> None:
        """One call, made while it was closed."""
        self.window.add(now, failures=failures)
        self.untold.add(now, failures=failures)

    def is_passed(self, now: float) -> bool:
        """Whether what this worker has seen alone is too much."""
        return self.limits.are_passed(*self.window.counts(now))

    def stand(self, standing: Standing) -> None:
        """A new standing. Whatever it is, what was counted before it is over."""
        if standing.state is not self.standing.state:
            self.window.clear()
            self.untold.clear()
        self.standing = standing

    def follow(self, limits: Limits) -> None:
        """The limits as they are configured now."""
        if limits != self.limits:
            self.limits = limits
            self.window.seconds = self.untold.seconds = limits.window_s
