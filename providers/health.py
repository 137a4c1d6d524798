"""How the providers are, by their last answers to what models they have, and by their breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from django.conf import settings

from providers import breakers, discovery, listings, snapshot
from providers.http import HttpClient
from providers.listings import Listing
from providers.registry import adapter_class
from providers.snapshot import ProviderFacts, Snapshot

LOOK_EVERY_S = 1.0

ANSWERS_OTHERWISE = frozenset({404, 405, 429, 501})
"""What an upstream says that is there, but does not list its models, or not now: chat may work."""


class Checked(NamedTuple):
    """A provider's status, its number of models, and when that was found, in seconds since 1970;
    as JSON a list of the three."""

    status: str
    models: int
    at: float


class Seen(NamedTuple):
    """How this process finds a provider: its status, why it is not healthy, and when it was asked
    for its models, in seconds since 1970."""

    status: str
    reason: str | None
    """A word: of `/v1/providers/test`, or `circuit_open`."""
    at: float


def status_of(provider: ProviderFacts, listing: Listing | None) -> str:
    """One of `healthy, degraded, unavailable, not_configured, disabled`, without a look at its
    breakers."""
    if not provider.enabled:
        return "disabled"
    if provider.problem is not None:
        return "not_configured"
    if listing is not None and listing.error is None:
        return "healthy"
    answers = listing is not None and listing.upstream_status in ANSWERS_OTHERWISE
    return "degraded" if answers else "unavailable"


def with_breakers(status: str, provider: ProviderFacts, resting: Collection[str]) -> str:
    """The same where some of its models' calls fail: `resting` are the names of such providers."""
    return "degraded" if status == "healthy" and provider.name in resting else status


def seen(configuration: Snapshot) -> Iterator[tuple[str, Seen]]:
    """The usable providers that this process has asked."""
    resting = breakers.resting()
    for provider in configuration.providers.values():
        listing = listings.listing_of(provider) if provider.usable else None
        if listing is not None:
            listed = status_of(provider, listing)
            status = with_breakers(listed, provider, resting)
            reason = listing.error_kind if status == listed else "circuit_open"
            yield provider.name, Seen(status, reason, listing.checked_at.timestamp())


def checked(configuration: Snapshot) -> dict[str, Checked]:
    """What this process found when it last asked the usable providers."""
    found: dict[str, Checked] = {}
    for provider in configuration.providers.values():
        listing = listings.listing_of(provider) if provider.usable else None
        if listing is not None:
            found[provider.name] = Checked(
                status_of(provider, listing),
                _number_of_models(configuration, listing),
                round(listing.checked_at.timestamp(), 1),
            )
    return found


_counted: dict[str, tuple[Snapshot, Listing, int]] = {}
"""By provider: it is asked for twice a second, and a listing may be of thousands."""


def _number_of_models(configuration: Snapshot, listing: Listing) -> int:
    known = _counted.get(listing.owner.name)
    if known is not None and known[0] is configuration and known[1] is listing:
        return known[2]
    number = sum(1 for _ in discovery.offered(configuration, listing.owner))
    _counted[listing.owner.name] = configuration, listing, number
    return number


def overall(
    configuration: Snapshot, told: Iterable[Mapping[str, Any]], resting: Collection[str] = ()
) -> list[tuple[ProviderFacts, Checked]]:
    """Every provider as this process, or whichever of the others asked it last, found it. `told`
    are what others have `checked`; `resting` as `with_breakers` has it."""
    every = [checked(configuration), *told]
    found = []
    for name, provider in configuration.providers.items():
        latest = _latest(provider, [each[name] for each in every if name in each])
        status = with_breakers(latest.status, provider, resting)
        found.append((provider, latest._replace(status=status)))
    return found


def _latest(provider: ProviderFacts, found: Iterable[Any]) -> Checked:
    if not provider.usable:
        return Checked(status_of(provider, None), 0, 0.0)
    known = (Checked(*each) for each in found)
    return max(known, key=lambda each: each.at, default=Checked("unavailable", 0, 0.0))


def is_wanted(configuration: Snapshot, provider: ProviderFacts) -> bool:
    """Whether somebody set a provider up. Every database begins with providers at the addresses
    where local servers usually are; that nobody runs one is no trouble."""
    adapter = adapter_class(provider.kind)
    return (
        bool(provider.api_key)
        or adapter is None
        or provider.base_url.rstrip("/") not in ("", (adapter.default_base_url or "").rstrip("/"))
        or provider.name == settings.DEFAULT_PROVIDER
        or any(name == provider.name for name, _ in configuration.deployments)
        or bool(listings.models_of(provider))
    )


async def watch(client: Callable[[], HttpClient]) -> None:
    """Asks every usable provider for its models, again and again, as often as `discovery` lets a
    listing grow old: until cancelled."""
    while True:
        configuration = snapshot.current()
        for provider in configuration.providers.values():
            listing = listings.listing_of(provider) if provider.usable else None
            if provider.usable and (listing is None or not discovery.is_fresh(listing)):
                discovery.begin(provider, client())
        await asyncio.sleep(LOOK_EVERY_S)
