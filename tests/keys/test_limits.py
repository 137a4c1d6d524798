"""What a key may use in a minute and at once."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest

from chat.errors import RateLimited
from keys import limits
from keys.caller import Caller
from keys.limits import Admission, admit

pytestmark = pytest.mark.once


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def caller(
    *, rpm: int | None = None, tpm: int | None = None, max_parallel: int | None = None
) -> Caller:
    return Caller(name=uuid.uuid4().hex, rpm=rpm, tpm=tpm, max_parallel=max_parallel)


def admitted(who: Caller, times: int, *, tokens: int = 0) -> list[Admission]:
    """The admissions of so many requests at the same moment."""
    admissions = []
    for _ in range(times):
        try:
            admissions.append(admit(who, tokens=tokens))
        except RateLimited:
            continue
    return admissions


def remaining(admission: Admission, name: str) -> int:
    return int(dict(admission.headers)[f"x-ratelimit-remaining-{name}"])


def test_parallel_requests_cannot_all_pass_one_small_token_limit(clock: Clock) -> None:
    assert len(admitted(caller(tpm=100), 5, tokens=100)) == 1  # M16


def test_a_request_refused_for_its_tokens_costs_no_request(clock: Clock) -> None:
    who = caller(rpm=3, tpm=100)
    admit(who, tokens=100).settle(100)
    assert admitted(who, 5, tokens=10) == []
    clock.now += 20  # 33 tokens and one request came back
    assert remaining(admit(who, tokens=10), "requests") == 2  # M17


def test_a_request_refused_for_its_number_costs_no_tokens(clock: Clock) -> None:
    who = caller(rpm=1, tpm=1000)
    admit(who, tokens=100)
    assert admitted(who, 5, tokens=100) == []
    clock.now += 60
    assert remaining(admit(who, tokens=100), "tokens") == 900  # M17


def test_a_request_refused_as_one_too_many_costs_neither(clock: Clock) -> None:
    who = caller(rpm=10, tpm=1000, max_parallel=1)
    first = admit(who, tokens=100)
    assert admitted(who, 5, tokens=100) == []
    first.settle(100)
    second = admit(who, tokens=100)
    assert (remaining(second, "requests"), remaining(second, "tokens")) == (8, 800)


def test_requests_and_tokens_are_counted_apart(clock: Clock) -> None:
    who = caller(rpm=100, tpm=1000)
    for _ in range(30):
        admit(who, tokens=1).settle(1)
    last = admit(who, tokens=1)
    assert (remaining(last, "requests"), remaining(last, "tokens")) == (69, 969)  # M18


def test_what_was_reserved_and_not_used_comes_back(clock: Clock) -> None:
    who = caller(tpm=100)
    admit(who, tokens=100).settle(40)
    assert remaining(admit(who, tokens=60), "tokens") == 0


def test_what_was_used_beyond_the_reserve_is_owed(clock: Clock) -> None:
    who = caller(tpm=100)
    admit(who, tokens=10).settle(160)
    assert admitted(who, 1, tokens=1) == []
    clock.now += 30
    assert admitted(who, 1, tokens=1) == []
    clock.now += 10
    assert len(admitted(who, 1, tokens=1)) == 1


def test_settling_twice_counts_once(clock: Clock) -> None:
    who = caller(tpm=100, max_parallel=1)
    first = admit(who, tokens=50)
    first.settle(50)
    first.settle(50)
    second = admit(who, tokens=50)
    assert remaining(second, "tokens") == 0
    assert admitted(who, 1) == [], "the second request still runs"


def test_a_minute_gives_back_what_a_minute_took(clock: Clock) -> None:
    who = caller(rpm=6)
    assert len(admitted(who, 10)) == 6
    clock.now += 10
    assert len(admitted(who, 10)) == 1
    clock.now += 3600
    assert len(admitted(who, 10)) == 6


def test_a_request_larger_than_the_limit_passes_a_full_bucket(clock: Clock) -> None:
    who = caller(tpm=100)
    assert len(admitted(who, 2, tokens=5000)) == 1


def test_a_refusal_tells_when_to_come_again(clock: Clock) -> None:
    who = caller(rpm=6)
    admitted(who, 6)
    with pytest.raises(RateLimited) as refused:
        admit(who, tokens=0)
    assert refused.value.retry_after == "10"
    assert "6 requests a minute" in refused.value.message


def test_a_lowered_limit_keeps_count_of_what_was_used(clock: Clock) -> None:
    who = caller(rpm=10)
    admitted(who, 8)
    lowered = Caller(name=who.name, rpm=9)
    assert len(admitted(lowered, 5)) == 1


def test_keys_do_not_share_their_limits(clock: Clock) -> None:
    assert len(admitted(caller(rpm=1), 2)) == len(admitted(caller(rpm=1), 2)) == 1


def test_a_key_without_limits_is_never_refused() -> None:
    who = caller()
    admissions = admitted(who, 1000, tokens=10**9)
    assert len(admissions) == 1000
    assert admissions[0].headers == ()


def test_forgetting_idle_keys_forgets_none_that_used_something(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_counters", {})
    monkeypatch.setattr(limits, "MAX_BUCKETS", 2)
    idle, busy = caller(max_parallel=1), caller(rpm=1)
    admit(idle, tokens=0).settle(0)
    admit(busy, tokens=0)
    admit(caller(rpm=1), tokens=0)
    assert admitted(busy, 1) == []
    assert idle.name not in limits._counters
