"""What the providers answered when they were last asked for their models: this process's memory.

Nobody is asked here (see `discovery`), so that the hot path may look.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from chat.types import ModelInfo

if TYPE_CHECKING:
    from providers.snapshot import ProviderFacts

NOTHING: Mapping[str, ModelInfo] = {}


@dataclass(frozen=True, slots=True)
class Listing:
    """One provider's answer.

    `error` is what an administrator may read, without secret and address; `error_kind` one of the
    words of `/v1/providers/test`. A failure keeps the models that were known before it: what a
    provider offered before it went away still resolves bare names.
    """

    owner: ProviderFacts
    """The provider as it was asked: a changed address or credential makes the answer another's."""
    models: Mapping[str, ModelInfo]
    asked_at: float
    """`time.monotonic()` of the question."""
    at: float
    """`time.monotonic()` of the answer."""
    checked_at: datetime
    latency_ms: int
    error: str | None = None
    error_kind: str | None = None
    upstream_status: int | None = None

    def age_s(self) -> float:
        return time.monotonic() - self.at


_listings: dict[str, Listing] = {}


def remember(listing: Listing) -> bool:
    """Keeps a listing, unless a later question was answered before it; returns whether it is
    kept."""
    known = _listings.get(listing.owner.name)
    if known is not None and known.asked_at > listing.asked_at:
        return False
    _listings[listing.owner.name] = listing
    return True


def forget_all() -> None:
    _listings.clear()


def forget_others(providers: Collection[str]) -> None:
    """Drops the listings of providers that are no more."""
    for name in _listings.keys() - set(providers):
        _listings.pop(name, None)


def listing_of(provider: ProviderFacts) -> Listing | None:
    """The last answer of a provider, as it is configured now."""
    listing = _listings.get(provider.name)
    if listing is None or not (listing.owner is provider or listing.owner == provider):
        return None
    return listing


def models_of(provider: ProviderFacts) -> Mapping[str, ModelInfo]:
    """The models a provider listed last, by their ids."""
    listing = listing_of(provider)
    return listing.models if listing is not None else NOTHING


def by_id(models: Iterable[ModelInfo]) -> dict[str, ModelInfo]:
    """Models by their ids, of a repeated one the first."""
    found: dict[str, ModelInfo] = {}
    for model in models:
        found.setdefault(model.id, model)
    return found
