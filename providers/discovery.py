"""Which models the providers offer: asked of them, remembered, and never waited for twice.

A listing is kept for DISCOVERY_TTL_S and asked again in the background after that, while the old
one is served; a failure is remembered for FAILURE_TTL_S, so that a provider that is down does not
slow every listing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings

from chat.errors import GatewayError, UpstreamError
from chat.types import ModelInfo
from providers.http import HttpClient
from providers.snapshot import ProviderFacts, Snapshot, Target, build_adapter

FAILURE_TTL_S = 15.0
LIST_TIMEOUT_S = 5.0
MAX_MODELS = 10_000
"""Models kept of one listing: OpenRouter, the longest known, has some 500."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a provider answered, and when (monotonic seconds)."""

    models: tuple[ModelInfo, ...]
    at: float
    error: str | None = None
    error_kind: str | None = None
    latency_ms: int | None = None
    owner: ProviderFacts | None = None
    """The provider as it was asked: a changed address or credential makes the answer stale."""

    def is_fresh(self, provider: ProviderFacts) -> bool:
        lifetime = FAILURE_TTL_S if self.error else settings.DISCOVERY_TTL_S
        return self.owner == provider and time.monotonic() - self.at < lifetime


_listings: dict[str, Listing] = {}
_refreshing: dict[str, asyncio.Task[Listing]] = {}


def forget() -> None:
    """Drops every listing."""
    _listings.clear()
    _refreshing.clear()


def known_models(provider: str) -> frozenset[str]:
    """The models last seen at a provider, without asking."""
    listing = _listings.get(provider)
    return frozenset(model.id for model in listing.models) if listing else frozenset()


def listed_models(provider: ProviderFacts) -> tuple[ModelInfo, ...]:
    """The models a provider listed when it was last asked as it is configured now."""
    listing = _listings.get(provider.name)
    return listing.models if listing is not None and listing.owner == provider else ()


def is_known(snapshot: Snapshot) -> bool:
    """Whether every usable provider was asked not long ago."""
    return all(
        (listing := _listings.get(provider.name)) is not None and listing.is_fresh(provider)
        for provider in snapshot.providers.values()
        if provider.usable
    )


def public_names(snapshot: Snapshot) -> Iterator[str]:
    """Every name `/v1/models` would show, from memory."""
    yield from snapshot.routes
    for provider in snapshot.providers.values():
        if provider.usable:
            models = known_models(provider.name) | configured_models(snapshot, provider)
            for model in sorted(models):
                yield f"{provider.name}/{model}"


def configured_models(snapshot: Snapshot, provider: ProviderFacts) -> frozenset[str]:
    """The models an operator made a deployment of: offered even where the upstream lists none."""
    return frozenset(
        model
        for (name, model), facts in snapshot.deployments.items()
        if name == provider.name and facts.enabled
    )


async def list_all(snapshot: Snapshot, http: HttpClient) -> dict[str, Listing]:
    """The listing of every usable provider, all asked at once."""
    usable = [provider for provider in snapshot.providers.values() if provider.usable]
    listings = await asyncio.gather(*(list_models(provider, http) for provider in usable))
    return dict(zip((provider.name for provider in usable), listings, strict=True))


async def list_models(
    provider: ProviderFacts, http: HttpClient, *, refresh: bool = False
) -> Listing:
    """One provider's listing: from memory when fresh; an old one at once, with a new one on its
    way; else asked now. Never raises for an upstream's failure."""
    listing = _listings.get(provider.name)
    usable = listing is not None and listing.owner == provider
    if listing is not None and usable and not refresh and listing.is_fresh(provider):
        return listing
    task = _refresh_once(provider, http)
    if listing is not None and usable and not refresh and not listing.error:
        return listing
    return await asyncio.shield(task)


def _refresh_once(provider: ProviderFacts, http: HttpClient) -> asyncio.Task[Listing]:
    loop = asyncio.get_running_loop()
    task = _refreshing.get(provider.name)
    if task is None or task.done() or task.get_loop() is not loop:
        task = loop.create_task(_ask(provider, http))
        _refreshing[provider.name] = task
    return task


async def _ask(provider: ProviderFacts, http: HttpClient) -> Listing:
    started = time.monotonic()
    models: list[ModelInfo] = []
    error = kind = None
    try:
        adapter = build_adapter(Target(provider, ""), http)
        async with asyncio.timeout(LIST_TIMEOUT_S):
            models = (await adapter.list_models())[:MAX_MODELS]
    except TimeoutError:
        error, kind = f"no answer within {LIST_TIMEOUT_S:g} s", "timeout"
    except GatewayError as failure:
        error = failure.message
        kind = failure.kind if isinstance(failure, UpstreamError) else "protocol"
    finished = time.monotonic()
    old = _listings.get(provider.name)
    if error and old is not None and old.owner == provider:
        models = list(old.models)  # what it offered before it went away still resolves bare names
    listing = Listing(
        models=tuple(models),
        at=finished,
        error=error,
        error_kind=kind,
        latency_ms=round((finished - started) * 1000),
        owner=provider,
    )
    _listings[provider.name] = listing
    return listing
