"""The breakers of one worker, and what it shares of them with the others.

A worker decides by what it sees itself and by what the store says of all workers. Failures are told
to the store when they happen, successes beside them; who opens, tries or closes a breaker writes it
there, and `follow` reads it twice a second. A store that is away leaves each worker to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from chat.errors import CircuitOpen, GatewayError, UpstreamError
from providers.breaker import CLOSED, UNTOLD, Breaker, Bucket, Limits, Standing, State

if TYPE_CHECKING:
    from providers.snapshot import Target

MAX_BREAKERS = 4096
"""Callers may name any model; memory must not fill so."""
FOLLOW_EVERY_S = 0.5
TELL_EVERY_S = 0.05
STORE_WAIT_S = 1.0
"""A call on trial does not wait longer for the store."""
TRIAL_S = 60.0
"""For so long others wait for the one call that is tried: its worker may have been killed."""

Key = tuple[str, str]


class Told(NamedTuple):
    """What the store says of a breaker, whether this call made it so, and of how many failures."""

    standing: Standing
    changed: bool
    failures: int = 0


class Store(Protocol):
    """The breakers of all workers. Everything raises StoreAway where it cannot be asked."""

    async def tell(
        self, key: Key, limits: Limits, calls: Sequence[Bucket], *, opens: bool = False
    ) -> Told:
        """Adds calls. Opens it where they are too much with what the others have told, or where
        this worker alone has seen enough."""

    async def begin_trial(self, key: Key, until: float) -> Told:
        """Half open, where it is open and its time is over; `changed` says the call is ours."""

    async def end_trial(self, key: Key, limits: Limits, *, answered: bool | None) -> Told:
        """Closed, or open anew; None where nobody can tell how the call ended."""

    async def changed(self) -> Mapping[Key, Standing]:
        """Those that are not closed, or have been closed a moment ago."""


Write = Callable[[Store], Coroutine[Any, Any, Told]]


class StoreAway(Exception):
    """The store cannot be asked now."""


Listener = Callable[[str, Breaker, int], None]
"""Is told `circuit_opened`, `circuit_half_open` or `circuit_closed`, of what, and its failures."""

_store: Store | None = None
_listener: Listener | None = None
_breakers: dict[Key, Breaker] = {}
_tasks: set[asyncio.Task[None]] = set()


def install(store: Store | None, listener: Listener | None) -> None:
    """Where breakers are shared, and who is told of their changes: put here by the composition
    root. Without a store a process has its own."""
    global _store, _listener
    _store, _listener = store, listener


def of(target: Target) -> Breaker:
    """The breaker of a target, with the limits it has now."""
    key = (target.provider.name, target.model)
    breaker = _breakers.get(key)
    if breaker is None:
        if len(_breakers) >= MAX_BREAKERS:
            _drop_idle()
        breaker = _breakers[key] = Breaker(key, target.breaker)
    elif breaker.limits is not target.breaker:
        breaker.follow(target.breaker)
    return breaker


def _drop_idle() -> None:
    now = time.time()
    for key, breaker in list(_breakers.items()):
        if breaker.is_closed and not breaker.window.counts(now)[1]:
            del _breakers[key]
    while len(_breakers) >= MAX_BREAKERS:
        del _breakers[next(iter(_breakers))]


def forget_all() -> None:
    """As if nothing had been asked yet."""
    _breakers.clear()


def all_known() -> Iterable[Breaker]:
    """What this worker has asked lately, and what others have found failing."""
    return tuple(_breakers.values())


def resting() -> frozenset[str]:
    """The providers of which a breaker is not closed."""
    return frozenset(each.key[0] for each in all_known() if not each.is_closed)


async def admit(breaker: Breaker) -> bool:
    """Whether a call through a breaker that is not closed is the one on trial. False where it has
    been closed meanwhile. Raises CircuitOpen."""
    now = time.time()
    if now < breaker.standing.until or breaker.is_asking:
        raise refusal(breaker)
    breaker.is_asking = True
    try:
        told = await _begin_trial(breaker, now + TRIAL_S)
    finally:
        breaker.is_asking = False
    breaker.stand(told.standing)
    if told.changed:
        announce("circuit_half_open", breaker, told.failures)
        return True
    if breaker.is_closed:
        return False
    raise refusal(breaker)


async def _begin_trial(breaker: Breaker, until: float) -> Told:
    alone = Told(Standing(State.HALF_OPEN, until, UNTOLD), changed=True)
    if _store is None or breaker.standing.version == UNTOLD:
        return alone
    asking = asyncio.ensure_future(_store.begin_trial(breaker.key, until))
    try:
        async with asyncio.timeout(STORE_WAIT_S):
            return await asyncio.shield(asking)
    except (StoreAway, TimeoutError):
        return alone
    except asyncio.CancelledError:
        asking.add_done_callback(lambda asked: _give_back(breaker, asked))
        raise


def _give_back(breaker: Breaker, asked: asyncio.Future[Told]) -> None:
    """The call's client has left before anybody knew that it was the one on trial."""
    if not asked.cancelled() and asked.exception() is None and asked.result().changed:
        breaker.stand(asked.result().standing)
        abandoned(breaker)


def refusal(breaker: Breaker) -> CircuitOpen:
    wait = math.ceil(max(1.0, breaker.standing.until - time.time()))
    if breaker.standing.state is State.HALF_OPEN:
        wait = 1
    name = "/".join(breaker.key)
    error = CircuitOpen(f"{name} has failed too often: it is not asked for {wait} s.")
    error.retry_after = str(wait)
    return error


def succeeded(breaker: Breaker, *, on_trial: bool) -> None:
    """A call was answered, be it by a refusal of the request."""
    if on_trial:
        _end_trial(breaker, answered=True)
    elif breaker.is_closed:
        breaker.count(time.time())


def failed(breaker: Breaker, error: GatewayError, *, on_trial: bool) -> None:
    """A call came to an error, which may be the caller's own doing."""
    if not (isinstance(error, UpstreamError) and error.is_fault):
        succeeded(breaker, on_trial=on_trial)
    elif on_trial:
        _end_trial(breaker, answered=False)
    elif breaker.is_closed:
        now = time.time()
        breaker.count(now, failures=1)
        if breaker.is_passed(now):
            _open_alone(breaker, now)
        else:
            _tell(breaker)


def abandoned(breaker: Breaker) -> None:
    """The call on trial was given up by its caller: the next one is tried."""
    _end_trial(breaker, answered=None)


def _open_alone(breaker: Breaker, now: float) -> None:
    alone = Told(_opened(breaker.limits), True, breaker.window.counts(now)[1])
    calls = breaker.untold.buckets(now)
    breaker.stand(alone.standing)
    _share(
        _share_change(
            breaker, "circuit_opened", alone, lambda s: s.tell(*_of(breaker), calls, opens=True)
        )
    )


def _end_trial(breaker: Breaker, *, answered: bool | None) -> None:
    """This worker goes on at once; the others hear of it."""
    if answered:
        breaker.stand(CLOSED._replace(version=UNTOLD))
    elif answered is None:
        breaker.stand(breaker.standing._replace(state=State.OPEN, until=0.0))
    else:
        breaker.stand(_opened(breaker.limits))
    type_ = {True: "circuit_closed", False: "circuit_opened", None: ""}[answered]
    alone = Told(breaker.standing, changed=True)
    _share(
        _share_change(
            breaker, type_, alone, lambda s: s.end_trial(*_of(breaker), answered=answered)
        )
    )


def _opened(limits: Limits) -> Standing:
    return Standing(State.OPEN, time.time() + limits.open_s, UNTOLD)


def _of(breaker: Breaker) -> tuple[Key, Limits]:
    return breaker.key, breaker.limits


async def _share_change(breaker: Breaker, type_: str, alone: Told, write: Write) -> None:
    """Writes a change this worker has made, and announces it unless another has made it already."""
    told = alone
    if _store is not None:
        with contextlib.suppress(StoreAway):
            told = await write(_store)
            breaker.stand(told.standing)
    if told.changed and type_:
        # Some of this worker's may be on their way to the store yet.
        announce(type_, breaker, max(told.failures, alone.failures))


def _tell(breaker: Breaker) -> None:
    if _store is not None and not breaker.is_telling:
        breaker.is_telling = True
        _share(_tell_all(breaker, _store))


async def _tell_all(breaker: Breaker, store: Store) -> None:
    """Until there are no failures left to tell: those that come meanwhile go together."""
    try:
        while (calls := breaker.untold.buckets(time.time())) and any(c.failures for c in calls):
            breaker.untold.clear()
            told = await store.tell(*_of(breaker), calls)
            if told.changed:
                breaker.stand(told.standing)
                announce("circuit_opened", breaker, told.failures)
            elif breaker.standing.version != UNTOLD:
                breaker.stand(told.standing)
            await asyncio.sleep(TELL_EVERY_S)
    except StoreAway:
        return
    finally:
        breaker.is_telling = False


def _share(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def announce(type_: str, breaker: Breaker, failures: int = 0) -> None:
    """Tells the listener of a change that is made."""
    if _listener is not None:
        _listener(type_, breaker, failures)


async def follow() -> None:
    """Keeps to what the other workers have found: until cancelled."""
    while True:
        await asyncio.sleep(FOLLOW_EVERY_S)
        if _store is not None:
            with contextlib.suppress(StoreAway):
                await _catch_up(await _store.changed())


async def _catch_up(shared: Mapping[Key, Standing]) -> None:
    for key, standing in shared.items():
        if key not in _breakers and standing.state is not State.CLOSED:
            _breakers[key] = Breaker(key, Limits())  # its own come with the first call
        breaker = _breakers.get(key)
        if breaker is not None and UNTOLD < breaker.standing.version < standing.version:
            breaker.stand(standing)
    for breaker in [each for each in _breakers.values() if each.standing.version == UNTOLD]:
        # What happened while the store was away. Who hears of it then was told of it then.
        alone = Told(breaker.standing, changed=False)
        await _share_change(breaker, "", alone, _last_change(breaker))


def _last_change(breaker: Breaker) -> Write:
    if breaker.is_closed:
        return lambda store: store.end_trial(*_of(breaker), answered=True)
    return lambda store: store.tell(*_of(breaker), (), opens=True)
