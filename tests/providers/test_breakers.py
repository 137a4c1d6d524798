"""Requests through a circuit breaker, in one process."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from chat.errors import CircuitOpen, GatewayError, UpstreamFailed, UpstreamRejected
from chat.requests import ChatRequest
from chat.types import Reply
from providers import breakers
from providers.breaker import Breaker, Limits, State
from providers.dispatch import Dispatch
from providers.http import HttpClient
from tests.providers.test_dispatch import Actor, Play, dispatch, http, text

__all__ = ["http"]
pytestmark = pytest.mark.once
FAST = Limits(failures=3, open_s=0.05)


def down() -> UpstreamFailed:
    return UpstreamFailed("down")


def sent(*actors: Actor, limits: Limits = FAST, max_retries: int = 0) -> Dispatch:
    found = dispatch(*actors, max_retries=max_retries)
    found.plan.targets = tuple(
        replace(target, provider=replace(target.provider, breaker=limits))
        for target in found.plan.targets
    )
    found.target = found.plan.targets[0]
    return found


async def fail(actor: Actor, times: int, *, max_retries: int = 0) -> None:
    for _ in range(times):
        with pytest.raises(GatewayError):
            await sent(actor, max_retries=max_retries).complete()


def the_breaker() -> Breaker:
    [found] = breakers.all_known()
    return found


async def test_an_upstream_that_fails_too_often_is_not_asked(http: HttpClient) -> None:
    actor = Actor(http, [down()])
    await fail(actor, 3)
    with pytest.raises(CircuitOpen) as refused:
        await sent(actor, limits=replace(FAST, open_s=30)).complete()
    assert actor.asked == 3
    assert refused.value.http_status == 503
    assert refused.value.code == "circuit_open"
    assert refused.value.retry_after == "1"


async def test_it_says_when_it_will_be_asked_again(http: HttpClient) -> None:
    actor = Actor(http, [down()])
    for _ in range(3):
        with pytest.raises(UpstreamFailed):
            await sent(actor, limits=Limits(failures=3)).complete()
    with pytest.raises(CircuitOpen) as refused:
        await sent(actor, limits=Limits(failures=3)).complete()
    assert refused.value.retry_after == "30"


async def test_a_route_goes_on_with_its_next_target(http: HttpClient) -> None:
    first, second = Actor(http, [down()]), Actor(http, [text("hi")])
    await fail(first, 3)
    through = sent(first, second)
    assert (await through.complete()).finish_reason == "stop"
    assert (first.asked, second.asked, through.attempts) == (3, 1, 1)


async def test_what_another_target_failed_of_is_told_before_an_open_breaker(
    http: HttpClient,
) -> None:
    failing, other = Actor(http, [down()]), Actor(http, [down()])
    await fail(failing, 3)
    with pytest.raises(UpstreamFailed):
        await sent(failing, other).complete()


async def test_requests_that_are_wrong_never_count(http: HttpClient) -> None:
    actor = Actor(http, [UpstreamRejected("no", upstream_status=400)])
    await fail(actor, 20)
    assert actor.asked == 20


async def test_what_a_retry_makes_good_is_no_failure(http: HttpClient) -> None:
    busy = UpstreamFailed("busy", retryable=True, retry_after="0")
    plays: list[Play] = [[busy], [text("hi")]] * 10
    actor = Actor(http, *plays)
    for _ in range(10):
        await sent(actor, max_retries=1).complete()
    assert the_breaker().is_closed


async def test_successes_keep_it_closed(http: HttpClient) -> None:
    plays: list[Play] = [[text("hi")], [text("hi")], [down()]] * 10
    actor = Actor(http, *plays)
    for _ in range(10):
        await sent(actor).complete()
        await sent(actor).complete()
        await fail(actor, 1)
    assert actor.asked == 30


async def test_after_its_rest_one_request_is_tried_and_closes_it(http: HttpClient) -> None:
    actor = Actor(http, [down()], [down()], [down()], [text("hi")])
    await fail(actor, 3)
    await asyncio.sleep(0.06)
    assert (await sent(actor).complete()).finish_reason == "stop"
    assert the_breaker().is_closed
    await sent(actor).complete()
    assert actor.asked == 5


async def test_a_trial_that_fails_opens_it_anew_without_retries(http: HttpClient) -> None:
    actor = Actor(http, [UpstreamFailed("down", retryable=True, retry_after="0")])
    await fail(actor, 3)
    await asyncio.sleep(0.06)
    with pytest.raises(UpstreamFailed):
        await sent(actor, max_retries=2).complete()
    assert actor.asked == 4
    with pytest.raises(CircuitOpen):
        await sent(actor).complete()


async def test_while_one_request_is_tried_the_others_are_refused(http: HttpClient) -> None:
    actor = Actor(http, [down()], [down()], [down()], [text("slow"), text("er")])
    await fail(actor, 3)
    await asyncio.sleep(0.06)
    admitted = await breakers.admit(the_breaker())
    assert admitted
    with pytest.raises(CircuitOpen) as refused:
        await sent(actor).complete()
    assert refused.value.retry_after == "1"
    assert actor.asked == 3


class Hanging(Actor):
    """Never answers."""

    async def complete(self, request: ChatRequest) -> Reply:
        await asyncio.sleep(60)
        raise AssertionError("unreachable")


async def test_a_trial_whose_caller_leaves_lets_the_next_one_try(http: HttpClient) -> None:
    await fail(Actor(http, [down()]), 3)
    await asyncio.sleep(0.06)
    waiting = asyncio.create_task(sent(Hanging(http)).complete())
    await asyncio.sleep(0.01)
    assert the_breaker().standing.state is State.HALF_OPEN
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await sent(Actor(http, [text("hi")])).complete()
    assert the_breaker().is_closed


async def test_streams_that_break_off_count(http: HttpClient) -> None:
    actor = Actor(http, [text("some"), down()])
    for _ in range(3):
        with pytest.raises(UpstreamFailed):
            async with aclosing(sent(actor).stream()) as stream:
                async for _batch in stream:
                    pass
    with pytest.raises(CircuitOpen):
        await anext(sent(actor).stream())
    assert actor.asked == 3


async def test_names_that_callers_invent_do_not_fill_the_memory(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakers, "MAX_BREAKERS", 10)
    target = sent(Actor(http, [down()])).target
    for number in range(50):
        breakers.failed(breakers.of(replace(target, model=f"m{number}")), down(), on_trial=False)
    assert len(list(breakers.all_known())) == 10
