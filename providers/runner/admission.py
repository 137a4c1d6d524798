"""How many requests of this process may be on their way to a local model.

llama.cpp's own queue knows no bound, and each request that waits there holds a thread. Our own
server has a queue of its own, which all workers share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from chat.errors import UpstreamRateLimited
from providers.runner.catalogue import LocalModel

_RETRY_AFTER_S = 1

_under_way: Counter[LocalModel] = Counter()


@contextmanager
def admitted(model: LocalModel) -> Iterator[None]:
    """Counts a request while it lasts. Raises UpstreamRateLimited where too many wait."""
    if model.engine != "llama":
        yield
        return
    if _under_way[model] >= model.slots + model.queue:
        raise UpstreamRateLimited(
            f"The local model {model.name} answers {model.slots} at a time, and {model.queue} are "
            "waiting already.",
            code="queue_full",
            retryable=True,
            retry_after=str(_RETRY_AFTER_S),
        )
    _under_way[model] += 1
    try:
        yield
    finally:
        _under_way[model] -= 1
