"""Requests and tokens a minute, and requests at once, per key and process.

Token buckets: a key may use its minute's worth at once and gets it back evenly. A request is
admitted by all limits or counted by none (M17); the two rates never share a counter (M18). Tokens
are reserved before the call, from the prompt's estimate and `max_tokens`, and settled to the real
figure after it, so that parallel requests cannot all pass one small limit (M16).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from chat.errors import RateLimited
from keys.caller import Caller

MAX_BUCKETS = 50_000


class _Bucket:
    __slots__ = ("at", "left", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit, self.left, self.at = limit, float(limit), now

    def refill(self, limit: int, now: float) -> None:
        if limit != self.limit:  # changed by an operator: what was used stays used
            self.left += limit - self.limit
            self.limit = limit
        self.left = min(self.limit, self.left + (now - self.at) * limit / 60)
        self.at = now

    def wait(self, amount: float) -> float:
        """Seconds until `amount` is there; an amount past the limit waits for a full bucket."""
        return max(0.0, min(amount, self.limit) - self.left) * 60 / self.limit

    def reset(self) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.limit - self.left) * 60 / self.limit


class _Counters:
    __slots__ = ("parallel", "requests", "tokens")

    def __init__(self) -> None:
        self.requests: _Bucket | None = None
        self.tokens: _Bucket | None = None
        self.parallel = 0

    @property
    def idle(self) -> bool:
        full = all(b is None or b.left >= b.limit for b in (self.requests, self.tokens))
        return self.parallel == 0 and full


@dataclass(slots=True)
class Admission:
    """One admitted request. `settle` must be called exactly once, whatever became of it."""

    counters: _Counters | None = None
    reserved: int = 0
    headers: tuple[tuple[str, str], ...] = ()

    def settle(self, used: int) -> None:
        """Ends the request: `used` are its tokens in and out."""
        if self.counters is None:
            return
        self.counters.parallel -= 1
        if self.counters.tokens is not None:
            bucket = self.counters.tokens
            bucket.left = min(bucket.limit, bucket.left + self.reserved - used)
        self.counters = None


_UNLIMITED = Admission()
_counters: dict[str, _Counters] = {}


def admit(caller: Caller, *, tokens: int) -> Admission:
    """Admits a request that may use `tokens`. Raises RateLimited naming the limit and the time."""
    if not caller.is_limited:
        return _UNLIMITED
    now = time.monotonic()
    counters = _counters.get(caller.name)
    if counters is None:
        if len(_counters) >= MAX_BUCKETS:
            _drop_idle()
        counters = _counters[caller.name] = _Counters()
    counters.requests = requests = _refilled(counters.requests, caller.rpm, now)
    counters.tokens = bucket = _refilled(counters.tokens, caller.tpm, now)
    if caller.max_parallel is not None and counters.parallel >= caller.max_parallel:
        raise _refusal(f"The key's {caller.max_parallel} parallel requests are in use.", 1.0)
    if requests is not None and requests.left < 1:
        raise _refusal(f"The key's {requests.limit} requests a minute are used.", requests.wait(1))
    if bucket is not None and bucket.left < min(tokens, bucket.limit):
        raise _refusal(f"The key's {bucket.limit} tokens a minute are used.", bucket.wait(tokens))
    counters.parallel += 1
    if requests is not None:
        requests.left -= 1
    if bucket is not None:
        bucket.left -= tokens
    return Admission(counters, tokens, _headers(requests, bucket))


def _refilled(bucket: _Bucket | None, limit: int | None, now: float) -> _Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return _Bucket(limit, now)
    bucket.refill(limit, now)
    return bucket


def _refusal(message: str, wait: float) -> RateLimited:
    return RateLimited(message, retry_after=str(max(1, math.ceil(wait))))


def _headers(requests: _Bucket | None, tokens: _Bucket | None) -> tuple[tuple[str, str], ...]:
    headers: list[tuple[str, str]] = []
    for name, bucket in (("requests", requests), ("tokens", tokens)):
        if bucket is not None:
            headers += [
                (f"x-ratelimit-limit-{name}", str(bucket.limit)),
                (f"x-ratelimit-remaining-{name}", str(max(0, int(bucket.left)))),
                (f"x-ratelimit-reset-{name}", f"{bucket.reset():.0f}s"),
            ]
    return tuple(headers)


def _drop_idle() -> None:
    for name in [name for name, counters in _counters.items() if counters.idle]:
        del _counters[name]
