"""Which models the providers offer: asked of them, remembered, and never waited for twice.

A listing is served for DISCOVERY_TTL_S, and while a newer one is on its way for OLDEST times that;
an older one says nothing about today and is waited for, as everything is that was never asked. A
failure is remembered for FAILURE_TTL_S, so that a provider that is down does not slow every
listing. No provider is waited for longer than LIST_TIMEOUT_S.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from django.conf import settings

from chat.errors import GatewayError, UpstreamError
from chat.types import ModelInfo
from providers import listings, snapshot
from providers.connection import kind_of
from providers.http import HttpClient
from providers.listings import Listing
from providers.snapshot import ProviderFacts, Snapshot, Target, build_adapter

logger = logging.getLogger(__name__)

FAILURE_TTL_S = 15.0
LIST_TIMEOUT_S = 5.0
OLDEST = 10
MAX_MODELS = 10_000
"""Models kept of one listing: OpenRouter, the longest known, has some 500."""

_Question = tuple[ProviderFacts, asyncio.Task[Listing]]
_asking: dict[tuple[asyncio.AbstractEventLoop, str], _Question] = {}
"""The questions under way, by the loop they live in."""


def forget() -> None:
    """Drops every listing, and lets nobody join a question that was asked before."""
    listings.forget_all()
    _asking.clear()


def is_fresh(listing: Listing) -> bool:
    """Whether a listing is served without asking again."""
    return listing.age_s() < (FAILURE_TTL_S if listing.error else settings.DISCOVERY_TTL_S)


def is_known(configuration: Snapshot) -> bool:
    """Whether every usable provider was asked not long ago."""
    return all(
        (listing := listings.listing_of(provider)) is not None and is_fresh(listing)
        for provider in _usable(configuration)
    )


def public_names(configuration: Snapshot) -> Iterator[str]:
    """Every name `/v1/models` would show, from memory."""
    yield from configuration.routes
    for provider in _usable(configuration):
        yield from (target.public_name for target, _ in offered(configuration, provider))


def offered(configuration: Snapshot, provider: ProviderFacts) -> Iterator[tuple[Target, ModelInfo]]:
    """A provider's models, from memory: those it listed, then those an operator made a deployment
    of, which count even where the upstream lists none. Disabled ones are left out."""
    listed = listings.models_of(provider)
    configured = (
        ModelInfo(id=model, owned_by=provider.name)
        for name, model in configuration.deployments
        if name == provider.name and model not in listed
    )
    for model in (*listed.values(), *configured):
        target = configuration.target(provider.name, model.id)
        if target.facts.enabled:
            yield target, model


async def list_all(
    configuration: Snapshot, http: HttpClient, *, refresh: bool = False
) -> Mapping[str, Listing]:
    """The listing of every usable provider, all asked at once."""
    listings.forget_others(configuration.providers)
    usable = list(_usable(configuration))
    found = await asyncio.gather(
        *(list_models(provider, http, refresh=refresh) for provider in usable)
    )
    return {provider.name: listing for provider, listing in zip(usable, found, strict=True)}


def _usable(configuration: Snapshot) -> Iterable[ProviderFacts]:
    return (provider for provider in configuration.providers.values() if provider.usable)


async def list_models(
    provider: ProviderFacts, http: HttpClient, *, refresh: bool = False
) -> Listing:
    """One usable provider's listing: from memory when fresh; an old one at once, with a new one on
    its way; else asked now. Never raises for what an upstream or an adapter does."""
    listing = None if refresh else listings.listing_of(provider)
    if listing is not None and is_fresh(listing):
        return listing
    task = _ask_once(provider, http)
    if listing is not None and _is_servable(listing):
        return listing
    # Shielded: a caller that hangs up must not fail the others that wait for the same answer.
    return await asyncio.shield(task)


def begin(provider: ProviderFacts, http: HttpClient) -> None:
    """Has one usable provider asked, and waits for nothing."""
    _ask_once(provider, http)


def _is_servable(listing: Listing) -> bool:
    return listing.error is None and listing.age_s() < OLDEST * settings.DISCOVERY_TTL_S


def _ask_once(provider: ProviderFacts, http: HttpClient) -> asyncio.Task[Listing]:
    """The question under way to this provider as it is configured now, or a new one."""
    loop = asyncio.get_running_loop()
    key = (loop, provider.name)
    question = _asking.get(key)
    if question is not None and question[0] == provider:
        return question[1]
    for other in [each for each in _asking if each[0].is_closed()]:
        _asking.pop(other, None)  # a loop that ended without ending its tasks
    task = loop.create_task(_ask(provider, http))
    question = _asking[key] = (provider, task)
    task.add_done_callback(lambda _: _asking.pop(key) if _asking.get(key) is question else None)
    return task


async def _ask(provider: ProviderFacts, http: HttpClient) -> Listing:
    started = time.monotonic()
    models: Iterable[ModelInfo] = ()
    failure: GatewayError | None = None
    error = kind = None
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            models = await build_adapter(Target(provider, ""), http).list_models()
    except TimeoutError:
        error, kind = f"No answer within {LIST_TIMEOUT_S:g} s.", "timeout"
    except GatewayError as error_told:
        failure = error_told
        error, kind = failure.message, kind_of(failure)
    except Exception:  # an edge: one adapter's fault must not hide the other providers' models
        logger.exception("Listing the models of %s failed.", provider.name)
        error, kind = "The gateway failed to read its model list.", "protocol"
    before = listings.models_of(provider)
    finished = time.monotonic()
    listing = Listing(
        owner=provider,
        models=before if error else listings.by_id(list(models)[:MAX_MODELS]),
        asked_at=started,
        at=finished,
        checked_at=datetime.now(UTC),
        latency_ms=round((finished - started) * 1000),
        error=error,
        error_kind=kind,
        upstream_status=failure.upstream_status if isinstance(failure, UpstreamError) else None,
    )
    if listings.remember(listing) and _tells_other_facts(before, listing.models):
        snapshot.current().drop_adapters(provider.name)
    return listing


def _tells_other_facts(before: Mapping[str, ModelInfo], now: Mapping[str, ModelInfo]) -> bool:
    """Whether the abilities of a model are told otherwise: adapters know them from their making."""
    if before is now:
        return False
    return any(
        (model.capabilities or None) != (now[name].capabilities or None if name in now else None)
        for name, model in before.items()
    ) or any(model.capabilities for name, model in now.items() if name not in before)
