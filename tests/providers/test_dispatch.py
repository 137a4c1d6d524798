"""Retries and fallbacks: who is asked, how often, and what the caller hears."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from chat.errors import (
    GatewayError,
    UnsupportedEndpoint,
    UpstreamCredentials,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from chat.types import Batch, ChatChunk, ChunkChoice, Delta, ModelInfo, Reply
from providers.adapters.base import ChatAdapter, Endpoint
from providers.dispatch import Dispatch, pause_before_retry, seconds_asked_for
from providers.http import HttpClient, Timeouts
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.routing import Plan
from providers.snapshot import ProviderFacts, Snapshot, Target

pytestmark = pytest.mark.once
ROLE = Batch([ChatChunk(choices=[ChunkChoice(index=0, delta=Delta(role="assistant"))])])


def text(content: str) -> Batch:
    return Batch([ChatChunk(choices=[ChunkChoice(index=0, delta=Delta(content=content))])])


def busy(retry_after: str = "0") -> UpstreamOverloaded:
    return UpstreamOverloaded("busy", retryable=True, retry_after=retry_after)


Play = list[Batch | GatewayError]
"""One attempt: what comes, in order; an error ends it."""


class Actor(ChatAdapter):
    """An adapter that plays one attempt after another, the last one for ever."""

    kind = "actor"

    def __init__(self, http: HttpClient, *plays: Play) -> None:
        super().__init__(Endpoint(base_url="", api_key="", model="m"), http)
        self.plays = list(plays)
        self.asked = 0
        self.closed = 0

    def _next_play(self) -> Play:
        self.asked += 1
        return self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]

    async def complete(self, request: ChatRequest) -> Reply:
        for step in self._next_play():
            if isinstance(step, GatewayError):
                raise step
        return Reply(body=b"{}", finish_reason="stop", usage=None)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        try:
            for step in self._next_play():
                if isinstance(step, GatewayError):
                    raise step
                yield step
        finally:
            self.closed += 1

    async def list_models(self) -> list[ModelInfo]:
        return []


@pytest.fixture
def http() -> HttpClient:
    return HttpClient(OutboundGuard(OutboundPolicy.for_providers(())))


def dispatch(*actors: Actor, max_retries: int = 2) -> Dispatch:
    """A request on its way to these, in order."""
    providers = {
        f"p{number}": ProviderFacts(
            name=f"p{number}",
            kind="actor",
            enabled=True,
            base_url="",
            api_key="",
            timeouts=Timeouts(),
            max_retries=max_retries,
            options={},
        )
        for number in range(len(actors))
    }
    snapshot = Snapshot(1, providers, {}, {})
    for name, actor in zip(providers, actors, strict=True):
        snapshot._adapters[name, "m"] = actor
    targets = tuple(Target(provider, "m") for provider in providers.values())
    request = parse_chat_request(b'{"messages":[{"role":"user","content":"hi"}]}')
    return Dispatch(snapshot, actors[0].http, Plan("smart", targets), request)


async def told(sent: Dispatch) -> str:
    """The text of a whole stream."""
    pieces = []
    async with aclosing(sent.stream()) as stream:
        async for batch in stream:
            pieces += [choice.delta.content or "" for c in batch.chunks for choice in c.choices]
    return "".join(pieces)


async def test_a_passing_failure_is_retried_on_the_same_target(http: HttpClient) -> None:
    first, second = Actor(http, [busy()], [busy()], [text("hi")]), Actor(http, [text("no")])
    sent = dispatch(first, second)
    assert await told(sent) == "hi"
    assert (first.asked, second.asked, sent.attempts) == (3, 0, 3)
    assert sent.target.public_name == "p0/m"


async def test_after_its_retries_the_next_target_is_asked(http: HttpClient) -> None:
    first, second = Actor(http, [busy()]), Actor(http, [text("hi")])
    sent = dispatch(first, second)
    assert await told(sent) == "hi"
    assert (first.asked, second.asked, sent.attempts) == (3, 1, 4)
    assert sent.target.public_name == "p1/m"


async def test_a_whole_answer_is_retried_and_fallen_back_alike(http: HttpClient) -> None:
    first, second = Actor(http, [busy()]), Actor(http, [busy()], [text("hi")])
    sent = dispatch(first, second, max_retries=1)
    assert (await sent.complete()).finish_reason == "stop"
    assert (first.asked, second.asked) == (2, 2)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamCredentials("refused"),
        UpstreamRejected("no such model", upstream_status=404),
        UpstreamUnreachable("unknown host", kind="dns", retryable=False),
        UpstreamFailed("nonsense"),
    ],
)
async def test_what_a_retry_cannot_mend_goes_straight_to_the_next_target(
    http: HttpClient, error: GatewayError
) -> None:
    first, second = Actor(http, [error]), Actor(http, [text("hi")])
    assert await told(dispatch(first, second)) == "hi"
    assert first.asked == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_is_wrong_is_asked_of_nobody_else(
    http: HttpClient, status: int
) -> None:
    wrong = UpstreamRejected("bad temperature", upstream_status=status, param="temperature")
    first, second = Actor(http, [wrong]), Actor(http, [text("hi")])
    with pytest.raises(UpstreamRejected) as failure:
        await told(dispatch(first, second))
    assert failure.value.param == "temperature"
    assert (first.asked, second.asked) == (1, 0)


async def test_when_all_fail_the_last_failure_is_told(http: HttpClient) -> None:
    first = Actor(http, [busy()])
    second = Actor(http, [UpstreamTimeout("too slow", retryable=True, retry_after="0")])
    with pytest.raises(UpstreamTimeout) as failure:
        await told(dispatch(first, second))
    assert failure.value.should_retry is False, "an SDK would multiply our own attempts"


async def test_a_failure_before_the_first_text_is_made_good_elsewhere(http: HttpClient) -> None:
    first, second = Actor(http, [ROLE, ROLE, busy()]), Actor(http, [ROLE, text("hi")])
    assert await told(dispatch(first, second)) == "hi"  # M25
    assert first.closed == 3


async def test_a_failure_after_the_first_text_is_the_streams(http: HttpClient) -> None:
    first, second = Actor(http, [text("he"), busy()]), Actor(http, [text("no")])
    pieces = []
    with pytest.raises(UpstreamOverloaded):
        async with aclosing(dispatch(first, second).stream()) as stream:
            async for batch in stream:
                pieces.append(batch)
    assert len(pieces) == 1
    assert (first.asked, second.asked) == (1, 0)


async def test_what_was_held_back_comes_first(http: HttpClient) -> None:
    first = Actor(http, [ROLE, text("a"), text("b")])
    batches = [batch async for batch in dispatch(first).stream()]
    assert batches == [ROLE, text("a"), text("b")]


async def test_an_empty_stream_is_a_failure(http: HttpClient) -> None:
    first, second = Actor(http, []), Actor(http, [text("hi")])
    assert await told(dispatch(first, second, max_retries=0)) == "hi"


async def test_a_caller_who_leaves_closes_the_upstream(http: HttpClient) -> None:
    actor = Actor(http, [text("a"), text("b")])
    stream = dispatch(actor).stream()
    await anext(stream)
    await stream.aclose()
    assert actor.closed == 1


async def test_a_pause_too_long_is_not_waited_for(http: HttpClient) -> None:
    first, second = Actor(http, [busy("3600")]), Actor(http, [text("hi")])
    assert await told(dispatch(first, second)) == "hi"
    assert first.asked == 1


async def test_a_pause_too_long_is_told_when_nobody_else_is_left(http: HttpClient) -> None:
    limited = UpstreamRateLimited("slow down", retryable=True, retry_after="3600")
    with pytest.raises(UpstreamRateLimited) as failure:
        await told(dispatch(Actor(http, [limited])))
    assert failure.value.retry_after == "3600"


def test_a_pause_is_as_long_as_was_asked_for() -> None:
    assert pause_before_retry(busy("7"), 0) == 7
    assert pause_before_retry(busy("30"), 0) == 30
    assert pause_before_retry(busy("31"), 0) is None


@pytest.mark.parametrize(("retry", "most"), [(0, 0.25), (1, 0.5), (2, 1.0), (9, 8.0)])
def test_without_a_wish_pauses_grow_and_are_spread(retry: int, most: float) -> None:
    error: Any = UpstreamFailed("x", retryable=True)
    pauses = [pause_before_retry(error, retry) or 0.0 for _ in range(200)]
    assert 0 <= min(pauses) < most / 2 < max(pauses) <= most


def test_what_cannot_be_retried_has_no_pause() -> None:
    assert pause_before_retry(UpstreamFailed("x"), 0) is None


def test_a_pause_may_be_told_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    asked = seconds_asked_for(soon)
    assert asked is not None
    assert 0 < asked <= 20
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert seconds_asked_for(past) == 0


@pytest.mark.parametrize("value", ["", None, "soon", "Mon, 99 Foo", "-5", "nan", "inf"])
def test_a_senseless_pause_never_breaks_the_retry(value: str | None) -> None:
    asked = seconds_asked_for(value)
    assert asked is None or asked >= 0


async def test_who_cannot_answer_at_all_gives_way_and_hides_no_other_failure(
    http: HttpClient,
) -> None:
    able, failing = Actor(http, [text("hi")]), Actor(http, [UpstreamCredentials("bad key")])
    unable = Actor(http, [UnsupportedEndpoint("none")])
    assert (await dispatch(unable, able).complete()).finish_reason == "stop"
    with pytest.raises(UpstreamCredentials):
        await dispatch(failing, unable).complete()
    with pytest.raises(UnsupportedEndpoint):
        await dispatch(unable, unable).complete()
