"""Writing down what was paid for: a database that is away for a while is waited for."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError

T = TypeVar("T")
AWAY = (OperationalError, InterfaceError)
WITHIN_S = 30.0
"""A try at a file that another writer holds takes 20 s by itself."""
_MAX_PAUSE_S = 2.0

logger = logging.getLogger(__name__)


async def insist(write: Callable[[], Awaitable[T]]) -> T:
    """What `write` returns, tried for half a minute. Raises AWAY."""
    until, pause = time.monotonic() + WITHIN_S, 0.25
    while True:
        try:
            return await write()
        except AWAY as error:
            if _is_wrong(error) or time.monotonic() + pause > until:
                raise
            logger.warning("An answer could not be written down yet: %s", error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_S)


def _is_wrong(error: Exception) -> bool:
    """Whether SQLite refuses the statement itself, as it does where a table is missing: under the
    same class as a file it cannot get at."""
    code: int | None = getattr(error.__cause__, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_ERROR
