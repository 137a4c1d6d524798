"""The keys in memory: one hash and one dictionary look-up a request.

A digest that is not in memory is asked of the database once, however many requests present it at
that moment, and its absence is remembered too. Any change of the configuration empties the ring;
what a look-up that began before the change brings back is used but not kept (a stale key once
came back to life that way elsewhere: M19).
"""

from __future__ import annotations

import asyncio
import time

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from chat.errors import ServiceUnavailable
from keys.caller import Caller
from keys.models import VirtualKey
from providers.database import in_database

MAX_KEYS = 20_000


class KeyRing:
    """The known digests of one process. All methods but `confirm` and `lose` run in its loop."""

    def __init__(self) -> None:
        self._callers: dict[str, Caller | None] = {}
        self._asking: dict[str, asyncio.Future[Caller | None]] = {}
        self._generation = 0
        self._confirmed_at = time.monotonic()
        self._database_away = False

    @property
    def generation(self) -> int:
        """Another number after every change of the configuration: what was learnt of a key before
        it may be wrong."""
        return self._generation

    def forget(self) -> None:
        """Empties the ring: the configuration changed."""
        self._generation += 1
        self._callers = {}
        self._asking = {}  # who comes after the change must not join a look-up from before it

    def confirm(self) -> None:
        """The database was asked and holds no other configuration than the one known here."""
        self._confirmed_at = time.monotonic()
        self._database_away = False

    def confirmed_ago_s(self) -> float:
        """How long ago `confirm` was called."""
        return time.monotonic() - self._confirmed_at

    def lose(self) -> None:
        """The database could not be asked."""
        self._database_away = True

    async def find(self, digest: str) -> Caller | None:
        """The valid key with this digest. Raises ServiceUnavailable when only the database could
        tell and it is away: never 401, which would have a caller throw a good key away (M7)."""
        if digest in self._callers and not self._is_stale():
            caller = self._callers[digest]
        else:
            caller = await self._ask_once(digest)
        if caller is None or (caller.expires_at is not None and caller.expires_at <= time.time()):
            return None
        return caller

    def _is_stale(self) -> bool:
        """Known keys work on without the database for KEY_GRACE_S (M8), not forever."""
        return time.monotonic() - self._confirmed_at > settings.KEY_GRACE_S + 5

    async def _ask_once(self, digest: str) -> Caller | None:
        if self._database_away:
            raise _unavailable()
        future = self._asking.get(digest)
        if future is None or future.get_loop() is not asyncio.get_running_loop():
            future = asyncio.ensure_future(self._ask(digest))
            self._asking[digest] = future
            future.add_done_callback(lambda done: self._drop(digest, done))
        # Shielded: one caller that hangs up must not fail the others that wait for the same row.
        return await asyncio.shield(future)

    def _drop(self, digest: str, done: asyncio.Future[Caller | None]) -> None:
        if self._asking.get(digest) is done:
            del self._asking[digest]

    async def _ask(self, digest: str) -> Caller | None:
        generation = self._generation
        try:
            caller = await in_database(_read_key, digest)
        except (DatabaseError, InterfaceError):
            raise _unavailable() from None
        if generation == self._generation:
            if len(self._callers) >= MAX_KEYS:
                self._callers.pop(next(iter(self._callers)), None)
            self._callers[digest] = caller
        return caller


def _unavailable() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The key cannot be checked now: the database is away.",
        code="database_unavailable",
        retry_after="5",
    )


def _read_key(digest: str) -> Caller | None:
    key = VirtualKey.objects.filter(secret_sha256=digest, enabled=True).first()
    return caller_of(key) if key is not None else None


def caller_of(key: VirtualKey) -> Caller:
    """A key's row as a caller."""
    return Caller(
        name=key.name,
        is_admin=key.admin,
        models=tuple(key.allowed_models) if key.allowed_models else None,
        tools=None if key.allowed_tools is None else tuple(key.allowed_tools),
        rpm=key.rpm,
        tpm=key.tpm,
        max_parallel=key.max_parallel,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
    )


ring = KeyRing()
"""This process's ring."""
