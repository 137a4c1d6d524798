"""Circuit breakers as workers share them in the database."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from providers import breaker_store
from providers.breaker import Bucket, Limits, State
from providers.breaker_rows import CircuitBreaker
from providers.breaker_store import DatabaseStore, all_breakers
from providers.breakers import Told
from providers.database import in_database
from providers.models import Deployment, Provider

pytestmark = pytest.mark.django_db(transaction=True)
KEY = ("openai", "gpt-4o-mini")
LIMITS = Limits(open_s=0.2)
store = DatabaseStore()


async def tell(failures: int, *, calls: int | None = None, opens: bool = False) -> Told:
    made = failures if calls is None else calls
    return await store.tell(KEY, LIMITS, [Bucket(time.time(), made, failures)], opens=opens)


def configure(model: str) -> None:
    openai, _ = Provider.objects.get_or_create(name="openai", defaults={"kind": "openai"})
    Deployment.objects.create(provider=openai, model=model)


async def opened() -> None:
    assert (await tell(5)).changed
    await in_database(time.sleep, 0.21)


async def test_failures_of_several_workers_add_up() -> None:
    assert not (await tell(3)).changed
    told = await tell(2)
    assert (told.changed, told.standing.state, told.failures) == (True, State.OPEN, 5)
    assert told.standing.until == pytest.approx(time.time() + 0.2, abs=0.5)


async def test_successes_of_several_workers_add_up_too() -> None:
    assert not (await tell(0, calls=100)).changed
    assert not (await tell(20)).changed


async def test_it_opens_once_whoever_else_has_seen_enough() -> None:
    assert (await tell(5)).changed
    assert not (await tell(5, opens=True)).changed


async def test_one_of_many_workers_tries() -> None:
    await opened()

    def ask(_: int) -> bool:
        try:
            return breaker_store._begin_trial(KEY, time.time() + 60).changed
        finally:
            connection.close()

    # The suite's SQLite is one in memory, which takes no two connections at once.
    at_once = 8 if connection.vendor == "postgresql" else 1

    def ask_all() -> list[bool]:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(ask, range(8)))

    assert sum(await in_database(ask_all)) == 1


async def test_nobody_tries_before_its_rest_is_over() -> None:
    await tell(5)
    told = await store.begin_trial(KEY, time.time() + 60)
    assert (told.changed, told.standing.state) == (False, State.OPEN)


async def test_a_trial_of_a_killed_worker_is_taken_over() -> None:
    await opened()
    assert (await store.begin_trial(KEY, time.time() - 1)).changed
    assert (await store.begin_trial(KEY, time.time() + 60)).changed


@pytest.mark.parametrize(
    ("answered", "state"), [(True, State.CLOSED), (False, State.OPEN), (None, State.OPEN)]
)
async def test_a_trial_ends(answered: bool | None, state: State) -> None:
    await opened()
    await store.begin_trial(KEY, time.time() + 60)
    told = await store.end_trial(KEY, LIMITS, answered=answered)
    assert (told.changed, told.standing.state) == (True, state)
    others = await store.changed()
    assert others[KEY].state is state


async def test_closed_it_counts_from_nothing() -> None:
    await opened()
    await store.begin_trial(KEY, time.time() + 60)
    await store.end_trial(KEY, LIMITS, answered=True)
    assert not (await tell(4)).changed


async def test_versions_grow_also_where_a_row_was_deleted() -> None:
    before = (await tell(5)).standing.version
    await in_database(CircuitBreaker.objects.all().delete)
    assert (await tell(5)).standing.version > before


async def test_names_that_callers_invent_do_not_fill_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker_store, "MAX_ROWS", 3)
    for number in range(6):
        told = await store.tell(("openai", f"m{number}"), LIMITS, [], opens=True)
        assert told.standing.state is State.OPEN
    assert await in_database(CircuitBreaker.objects.count) == 3
    await in_database(configure, "mine")
    await store.tell(("openai", "mine"), LIMITS, [], opens=True)
    assert ("openai", "mine") in await store.changed()


async def test_what_opened_it_stays_to_be_seen_while_it_is_open() -> None:
    await opened()
    [(row, now)] = await in_database(all_breakers)
    assert row.failures(Limits(window_s=0.01), now) == 5
