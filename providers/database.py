"""Database work from the event loop: in a thread, and with no connection kept afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

P = ParamSpec("P")
T = TypeVar("T")


async def in_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `function` in a worker thread and gives its connection back before returning: a request
    that goes on to wait for an upstream must not hold one (40 streams once pinned 40)."""
    return await sync_to_async(_released(function), thread_sensitive=False)(*args, **kwargs)


def _released(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return run
