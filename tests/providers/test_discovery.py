"""Listings: asked once, remembered, and kept apart from what was configured before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from chat.types import ModelInfo
from providers import discovery, listings, snapshot
from providers.http import HttpClient, shared_client
from providers.outbound import OutboundPolicy
from providers.snapshot import ProviderFacts, Snapshot, Target
from tests.providers.listed import facts, listed
from tests.upstream import Asked, Peer, Script, Upstream, list_models, scripted_upstream, silence

pytestmark = pytest.mark.once
BOTH = ["gpt-4o-mini", "gpt-4o"]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


def offering(*models: dict[str, Any], after_s: float = 0.0) -> Script:
    async def script(asked: Asked, peer: Peer) -> None:
        await asyncio.sleep(after_s)
        peer.answer(200, json.dumps({"data": list(models)}).encode())

    return script


async def failing(asked: Asked, peer: Peer) -> None:
    peer.answer(500, b'{"error": {"message": "out of order"}}')


def aged(provider: ProviderFacts, seconds: float) -> None:
    """The provider's listing as if it were so much older."""
    listing = listings.listing_of(provider)
    assert listing is not None
    listings.forget_all()
    older = replace(listing, at=listing.at - seconds, asked_at=listing.asked_at - seconds)
    listings.remember(older)


async def until_listed(provider: ProviderFacts, models: list[str]) -> None:
    for _ in range(500):
        if list(listings.models_of(provider)) == models:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(list(listings.models_of(provider)))


async def test_a_listing_is_asked_for_once_and_kept(upstream: Upstream, client: HttpClient) -> None:
    provider = facts(upstream.base_url)
    for _ in range(3):
        listing = await discovery.list_models(provider, client)
        assert (list(listing.models), listing.error) == (BOTH, None)
    assert upstream.listings == 1


async def test_all_who_ask_at_once_share_one_question(
    upstream: Upstream, client: HttpClient
) -> None:
    upstream.listing = offering({"id": "m"}, after_s=0.1)
    provider = facts(upstream.base_url)
    found = await asyncio.gather(*(discovery.list_models(provider, client) for _ in range(20)))
    assert {tuple(each.models) for each in found} == {("m",)}
    assert upstream.listings == 1


async def test_who_hangs_up_takes_the_answer_from_nobody(
    upstream: Upstream, client: HttpClient
) -> None:
    upstream.listing = offering({"id": "m"}, after_s=0.2)
    provider = facts(upstream.base_url)
    first = asyncio.create_task(discovery.list_models(provider, client))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(discovery.list_models(provider, client))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert list((await second).models) == ["m"]
    assert upstream.listings == 1


async def test_an_answer_nobody_waited_for_is_kept(upstream: Upstream, client: HttpClient) -> None:
    upstream.listing = offering({"id": "m"}, after_s=0.1)
    provider = facts(upstream.base_url)
    only = asyncio.create_task(discovery.list_models(provider, client))
    await asyncio.sleep(0.05)
    only.cancel()
    await until_listed(provider, ["m"])
    assert upstream.listings == 1


async def test_an_old_listing_is_served_while_a_new_one_is_on_its_way(
    upstream: Upstream, client: HttpClient
) -> None:
    provider = facts(upstream.base_url)
    await discovery.list_models(provider, client)
    aged(provider, 61)
    upstream.listing = offering({"id": "new"}, after_s=0.1)
    assert list((await discovery.list_models(provider, client)).models) == BOTH
    await until_listed(provider, ["new"])


async def test_a_listing_of_long_ago_is_not_served_any_more(
    upstream: Upstream, client: HttpClient
) -> None:
    provider = facts(upstream.base_url)
    await discovery.list_models(provider, client)
    aged(provider, 601)
    upstream.listing = offering({"id": "new"}, after_s=0.1)
    assert list((await discovery.list_models(provider, client)).models) == ["new"]


async def test_a_failure_is_remembered_for_a_while_and_not_longer(
    upstream: Upstream, client: HttpClient
) -> None:
    upstream.listing = failing
    provider = facts(upstream.base_url)
    for _ in range(3):
        listing = await discovery.list_models(provider, client)
        assert (listing.error, listing.error_kind) == ("out of order", "protocol")
    assert upstream.listings == 1
    aged(provider, 14)
    assert (await discovery.list_models(provider, client)).error
    assert upstream.listings == 1
    aged(provider, 2)
    upstream.listing = list_models
    assert (await discovery.list_models(provider, client)).error is None


async def test_a_provider_that_goes_away_keeps_its_models(
    upstream: Upstream, client: HttpClient
) -> None:
    provider = facts(upstream.base_url)
    await discovery.list_models(provider, client)
    upstream.listing = failing
    listing = await discovery.list_models(provider, client, refresh=True)
    assert (list(listing.models), listing.error) == (BOTH, "out of order")


async def test_a_refresh_asks_a_fresh_listing_again(upstream: Upstream, client: HttpClient) -> None:
    provider = facts(upstream.base_url)
    await discovery.list_models(provider, client)
    await discovery.list_models(provider, client, refresh=True)
    assert upstream.listings == 2


async def test_a_silent_provider_is_waited_for_no_longer_than_its_time(
    upstream: Upstream, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LIST_TIMEOUT_S", 0.2)
    with scripted_upstream(silence) as hanging:
        hanging.listing = silence
        quick, slow = facts(upstream.base_url, name="quick"), facts(hanging.base_url, name="slow")
        both = Snapshot(1, {"quick": quick, "slow": slow}, {}, {})
        started = time.monotonic()
        found = await discovery.list_all(both, client)
        assert time.monotonic() - started < 1
    assert (found["quick"].error, found["slow"].error_kind) == (None, "timeout")
    assert list(found["quick"].models) == BOTH


async def test_a_changed_provider_is_asked_anew(upstream: Upstream, client: HttpClient) -> None:
    provider = facts(upstream.base_url)
    await discovery.list_models(provider, client)
    upstream.listing = offering({"id": "for-another-key"})
    changed = replace(provider, api_key="sk-other-0123456789")
    assert list((await discovery.list_models(changed, client)).models) == ["for-another-key"]


async def test_an_equal_provider_of_a_later_revision_is_not(
    upstream: Upstream, client: HttpClient
) -> None:
    provider = facts(upstream.base_url)
    await discovery.list_models(provider, client)
    await discovery.list_models(facts(upstream.base_url), client)
    assert upstream.listings == 1


async def test_nobody_joins_a_question_from_before_a_change(
    upstream: Upstream, client: HttpClient
) -> None:
    old = facts(upstream.base_url)
    upstream.listing = offering({"id": "old"}, after_s=0.3)
    before = asyncio.create_task(discovery.list_models(old, client))
    await asyncio.sleep(0.1)
    upstream.listing = offering({"id": "new"})
    new = replace(old, api_key="sk-other-0123456789")
    assert list((await discovery.list_models(new, client)).models) == ["new"]
    assert list((await before).models) == ["old"]
    assert list(listings.models_of(new)) == ["new"]  # the late answer did not take its place
    assert list(listings.models_of(old)) == []


async def once(provider: ProviderFacts) -> list[str]:
    """A listing in an event loop of its own, with that loop's client."""
    client = shared_client(OutboundPolicy.for_providers())
    return list((await discovery.list_models(provider, client)).models)


def test_what_one_event_loop_was_told_the_others_know(upstream: Upstream) -> None:
    provider = facts(upstream.base_url)
    assert asyncio.run(once(provider)) == BOTH
    assert asyncio.run(once(provider)) == BOTH
    assert upstream.listings == 1


def test_event_loops_of_several_threads_do_not_wait_for_each_other(upstream: Upstream) -> None:
    upstream.listing = offering({"id": "m"}, after_s=0.1)
    provider = facts(upstream.base_url)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: asyncio.run(once(provider)), range(4)))
    assert found == [["m"]] * 4


def test_a_loop_that_ended_while_asking_holds_up_no_other(upstream: Upstream) -> None:
    upstream.listing = offering({"id": "m"}, after_s=0.3)
    provider = facts(upstream.base_url)

    async def leave() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(once(provider), 0.05)

    asyncio.run(leave())
    assert discovery._asking == {}
    assert asyncio.run(once(provider)) == ["m"]


async def test_an_adapters_own_fault_hides_no_other_provider(
    upstream: Upstream, client: HttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    broken = facts(name="broken", kind="fake", options={"models": 5})
    both = Snapshot(1, {"p": facts(upstream.base_url), "broken": broken}, {}, {})
    found = await discovery.list_all(both, client)
    assert found["p"].error is None
    assert found["broken"].error == "The gateway failed to read its model list."
    assert "Listing the models of broken failed." in caplog.text


async def test_providers_that_are_no_more_are_forgotten(client: HttpClient) -> None:
    gone = facts(name="gone")
    listings.remember(listed(gone, ModelInfo(id="m")))
    await discovery.list_all(Snapshot(1, {}, {}, {}), client)
    assert listings.listing_of(gone) is None


async def test_no_error_tells_the_credential_or_the_address(
    upstream: Upstream, client: HttpClient
) -> None:
    provider = facts(upstream.base_url, api_key="sk-canary-5f2b8c1d9e7a4036")

    async def telling(asked: Asked, peer: Peer) -> None:
        message = f"{asked.headers['authorization']} at {upstream.base_url}{asked.path} is bad"
        peer.answer(500, json.dumps({"error": {"message": message}}).encode())

    upstream.listing = telling
    told = (await discovery.list_models(provider, client)).error
    assert told is not None
    assert "canary" not in told
    assert str(upstream.port) not in told


async def test_adapters_learn_what_a_new_listing_tells(
    upstream: Upstream, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = facts(upstream.base_url)
    current = Snapshot(1, {"p": provider}, {}, {})
    monkeypatch.setattr(snapshot, "_current", current)
    target = Target(provider, "m")
    assert current.adapter(target, client).endpoint.capabilities.vision
    upstream.listing = offering({"id": "m", "capabilities": {"vision": False}})
    await discovery.list_models(provider, client)
    adapter = current.adapter(target, client)
    assert not adapter.endpoint.capabilities.vision
    await discovery.list_models(provider, client, refresh=True)
    assert current.adapter(target, client) is adapter  # the same facts: nothing to learn
