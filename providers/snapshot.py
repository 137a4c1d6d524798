"""The configuration in memory: what the hot path reads instead of the database.

Built whole from one consistent read, then never changed: a request keeps the snapshot it began
with, and a change of the configuration puts a new one in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import transaction

from providers import listings
from providers.adapters.base import ChatAdapter, Endpoint
from providers.breaker import Limits
from providers.capabilities import CAPABILITY_NAMES, Capabilities, family_flags, merge
from providers.http import HttpClient, Timeouts
from providers.models import ConfigRevision, Deployment, Price, Provider, Route
from providers.outbound import OutboundPolicy
from providers.registry import adapter_class
from providers.secrets import SecretUnreadable

logger = logging.getLogger(__name__)

MAX_ADAPTERS = 2048
"""Targets and adapters kept per snapshot: callers may name any model; memory must not fill so."""

Prices = tuple[tuple[datetime, Decimal, Decimal, Decimal | None, Decimal | None], ...]


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """A provider as the hot path sees it. `problem` says why it cannot be used, if it cannot."""

    name: str
    kind: str
    enabled: bool
    base_url: str
    api_key: str = field(repr=False)
    timeouts: Timeouts
    max_retries: int
    options: Mapping[str, Any]
    problem: str | None = None
    lacks_credential: bool = False
    """Whether that is the problem, and a credential would be its end."""
    breaker: Limits = Limits()

    @property
    def usable(self) -> bool:
        return self.enabled and self.problem is None


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    """What is known of one upstream model beside its name."""

    enabled: bool = True
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    """The operator's own word."""
    measured: Mapping[str, bool] = field(default_factory=dict)
    """What `probe` found out at this very upstream."""
    context_window: int | None = None
    prices: Prices = ()
    breaker: Limits | None = None
    """None where it is the provider's."""


@dataclass(frozen=True, slots=True)
class Target:
    """A provider and the upstream's name of a model: one thing that can be asked."""

    provider: ProviderFacts
    model: str
    facts: DeploymentFacts = DeploymentFacts()

    @property
    def public_name(self) -> str:
        return f"{self.provider.name}/{self.model}"

    @property
    def breaker(self) -> Limits:
        return self.facts.breaker or self.provider.breaker


@dataclass(frozen=True, slots=True)
class Snapshot:
    revision: int
    providers: Mapping[str, ProviderFacts]
    deployments: Mapping[tuple[str, str], DeploymentFacts]
    routes: Mapping[str, tuple[Target, ...]]
    _targets: dict[tuple[str, str], Target] = field(default_factory=dict, repr=False)
    _adapters: dict[tuple[str, str], ChatAdapter] = field(default_factory=dict, repr=False)

    def target(self, provider: str, model: str) -> Target:
        """A provider's model as a target; the same object for as long as the snapshot is."""
        key = (provider, model)
        target = self._targets.get(key)
        if target is None:
            facts = self.deployments.get(key) or DeploymentFacts()
            target = Target(self.providers[provider], model, facts)
            if len(self._targets) < MAX_ADAPTERS:
                self._targets[key] = target
        return target

    def adapter(self, target: Target, http: HttpClient) -> ChatAdapter:
        """The adapter that asks this target; kept for as long as the snapshot is."""
        key = (target.provider.name, target.model)
        adapter = self._adapters.get(key)
        if adapter is None or adapter.http is not http:
            adapter = build_adapter(target, http)
            if len(self._adapters) < MAX_ADAPTERS:
                self._adapters[key] = adapter
        return adapter

    def drop_adapters(self, provider: str) -> None:
        """Has the adapters of a provider made anew: its listing tells other facts than before."""
        for key in list(self._adapters):
            if key[0] == provider:
                self._adapters.pop(key, None)


def capabilities_of(target: Target) -> Capabilities:
    """What a target can do, as far as is known now; nothing where no adapter speaks to it."""
    adapter = adapter_class(target.provider.kind)
    if adapter is None:
        return Capabilities(**dict.fromkeys(CAPABILITY_NAMES, False))
    listed = listings.models_of(target.provider).get(target.model)
    return merge(
        adapter.defaults_at(target.provider.base_url),
        (
            family_flags(target.model),
            listed.capabilities if listed is not None else None,
            target.facts.measured,
            target.facts.capabilities,
        ),
    )


def build_adapter(target: Target, http: HttpClient) -> ChatAdapter:
    """An adapter for a target whose provider is usable."""
    provider = target.provider
    adapter = adapter_class(provider.kind)
    assert adapter is not None, "a provider without an adapter is not usable"
    endpoint = Endpoint(
        base_url=provider.base_url,
        api_key=provider.api_key,
        model=target.model,
        timeouts=provider.timeouts,
        capabilities=capabilities_of(target),
        options=adapter_options(provider.options),
        content_policy=OutboundPolicy.for_tools(settings.OUTBOUND_ALLOW),
    )
    return adapter(endpoint, http)


def adapter_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A provider's options with what the installation adds: a folder of models where it names none
    itself, and where the runner keeps its files, which it cannot name."""
    return {
        **({"models_dir": settings.MODELS_DIR} if settings.MODELS_DIR else {}),
        **options,
        "data_dir": settings.DATA_DIR,
    }


EMPTY = Snapshot(revision=0, providers={}, deployments={}, routes={})
_current = EMPTY


def current() -> Snapshot:
    """The snapshot in force in this process."""
    return _current


def install(snapshot: Snapshot) -> None:
    """Puts a snapshot in force: one assignment, so that no request sees half of it."""
    global _current
    _current = snapshot


def read_revision() -> int:
    """The revision the database holds now."""
    revision: int = ConfigRevision.objects.values_list("revision", flat=True).get(pk=1)
    return revision


def load() -> Snapshot:
    """Reads the whole configuration in one transaction. Raises DatabaseError."""
    with transaction.atomic():
        revision = read_revision()
        providers = {row.name: provider_facts(row) for row in Provider.objects.all()}
        deployments = _deployments(providers)
        routes = {
            route.name: tuple(
                Target(
                    providers[target.deployment.provider.name],
                    target.deployment.model,
                    deployments[target.deployment.provider.name, target.deployment.model],
                )
                for target in route.targets.all()
            )
            for route in Route.objects.filter(enabled=True).prefetch_related(
                "targets__deployment__provider"
            )
        }
    return Snapshot(revision, providers, deployments, routes)


def _deployments(
    providers: Mapping[str, ProviderFacts],
) -> dict[tuple[str, str], DeploymentFacts]:
    prices: dict[int, list[Price]] = {}
    for price in Price.objects.order_by("-valid_from"):
        prices.setdefault(price.deployment_id, []).append(price)
    return {
        (row.provider.name, row.model): DeploymentFacts(
            enabled=row.enabled,
            capabilities=row.capabilities,
            measured=row.measured_flags(providers[row.provider.name].base_url),
            context_window=row.context_window,
            prices=tuple(
                (price.valid_from, price.input, price.output, price.cached_input, price.cache_write)
                for price in prices.get(row.pk, ())
            ),
            breaker=_own_limits(row, providers[row.provider.name].breaker),
        )
        for row in Deployment.objects.select_related("provider")
    }


def _own_limits(row: Deployment, providers: Limits) -> Limits | None:
    """A deployment's, where any of them is its own."""
    named = {name: getattr(row, f"breaker_{name}") for name in Limits.__dataclass_fields__}
    own = {name: value for name, value in named.items() if value is not None}
    return replace(providers, **own) if own else None


def provider_facts(row: Provider) -> ProviderFacts:
    """A provider's row with its credential and address as they are in force now."""
    problem = None
    lacks_credential = False
    api_key = base_url = ""
    try:
        api_key, base_url = row.reveal_api_key(), row.effective_base_url()
    except SecretUnreadable:
        problem = "its stored credential was encrypted under another secret key"
    except (OSError, UnicodeDecodeError):
        problem = "the file its environment variable names cannot be read"
    adapter = adapter_class(row.kind)
    if adapter is None:
        problem = f"this version has no adapter for the kind {row.kind}"
    elif problem is None and adapter.needs_key and not api_key:
        problem = f"no credential: set {row.api_key_env or 'its API key'}"
        lacks_credential = True
    return ProviderFacts(
        name=row.name,
        kind=row.kind,
        enabled=row.enabled,
        base_url=base_url,
        api_key=api_key,
        timeouts=Timeouts(
            connect=row.timeout_connect_s,
            first_byte=row.timeout_first_byte_s,
            idle=row.timeout_idle_s,
            total=row.timeout_total_s,
        ),
        max_retries=row.max_retries,
        options=row.options if isinstance(row.options, dict) else {},
        problem=problem,
        lacks_credential=lacks_credential,
        breaker=Limits(
            failures=row.breaker_failures,
            rate=row.breaker_rate,
            window_s=row.breaker_window_s,
            open_s=row.breaker_open_s,
        ),
    )


def refresh() -> bool:
    """Loads the configuration when the database's revision is another than ours. Raises
    DatabaseError; returns whether anything changed."""
    if read_revision() == _current.revision:
        return False
    install(load())
    logger.info("Configuration revision %s is in force.", _current.revision)
    return True
