"""What opens a circuit breaker, by the numbers."""

from __future__ import annotations

import pytest

from providers.breaker import BUCKETS, CLOSED, Breaker, Limits, Standing, State, Window

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("calls", "failures", "opens"),
    [(5, 5, True), (10, 5, True), (11, 5, False), (4, 4, False), (0, 0, False), (12, 6, True)],
)
def test_it_takes_five_failures_that_are_half_of_the_calls(
    calls: int, failures: int, opens: bool
) -> None:
    assert Limits().are_passed(calls, failures) is opens


def test_without_a_number_of_failures_nothing_opens_it() -> None:
    assert not Limits(failures=0).are_passed(1000, 1000)


def test_a_window_forgets_what_is_older_than_it() -> None:
    window = Window(30)
    window.add(100, failures=1)
    window.add(120)
    assert window.counts(129) == (2, 1)
    assert window.counts(131) == (1, 0)
    assert window.counts(151) == (0, 0)


def test_a_window_holds_few_numbers_whatever_the_load() -> None:
    window = Window(30)
    for call in range(100_000):
        window.add(call * 0.001)
    assert len(window.buckets(100.0)) <= BUCKETS + 1
    assert 29_000 <= window.counts(100.0)[0] <= 31_000


def test_what_came_before_a_change_does_not_count_after_it() -> None:
    breaker = Breaker(("p", "m"), Limits())
    for _ in range(5):
        breaker.count(100.0, failures=1)
    breaker.stand(Standing(State.OPEN, 130.0, 1))
    breaker.stand(CLOSED)
    assert breaker.window.counts(100.0) == (0, 0)


def test_limits_that_change_hold_for_what_was_counted_before() -> None:
    breaker = Breaker(("p", "m"), Limits())
    for _ in range(3):
        breaker.count(100.0, failures=1)
    assert not breaker.is_passed(100.0)
    breaker.follow(Limits(failures=3))
    assert breaker.is_passed(100.0)
