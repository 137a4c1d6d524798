"""Tells of requests that a key's limits refused, at most once a second and key: who is refused and
comes again at once must not fill the journal with it."""

from __future__ import annotations

import time

from chat.errors import RateLimited
from events_app.publishing import publish
from gateway_api.exchange import Call

EVERY_S = 1.0
_MAX_KEYS = 10_000

_told: dict[str, tuple[float, int]] = {}
"""By the key's name: when it was last told of (`time.monotonic`), and the refusals since."""


def tell_refusal(call: Call, model: str, error: RateLimited) -> None:
    """Publishes `rate_limited`, with the refusals not told of since the last one."""
    key, now = call.caller.name, time.monotonic()
    at, untold = _told.get(key, (0.0, 0))
    if at and now - at < EVERY_S:
        _told[key] = at, untold + 1
        return
    if len(_told) >= _MAX_KEYS:
        _told.clear()
    _told[key] = now, 0
    publish(
        "rate_limited",
        {"reason": error.message, "retry_after": error.retry_after, "refusals": untold + 1},
        request_id=call.request_id,
        key=key,
        model=model,
    )
