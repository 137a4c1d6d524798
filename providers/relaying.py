"""Which provider a request is relayed to: by its model, by name, or because no other can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from django.conf import settings

from chat.errors import (
    InvalidRequest,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    UnsupportedEndpoint,
)
from chat.relays import RELAYS, Relay, RelayRequest
from providers.http import HttpClient
from providers.registry import adapter_class
from providers.routing import Plan, find_plan
from providers.snapshot import ProviderFacts, Snapshot, Target


class Rights(Protocol):
    """What a caller may use, of models and of whole providers."""

    def may_use(self, model: str) -> bool: ...

    def may_use_all(self, provider: str) -> bool: ...


def relays_of(provider: ProviderFacts) -> frozenset[Relay]:
    """What a provider has. Its option `relays` says so where its kind's list is wrong for it."""
    adapter = adapter_class(provider.kind)
    if adapter is None or not provider.usable:
        return frozenset()
    named = provider.options.get("relays")
    if isinstance(named, list):
        return frozenset(each for each in RELAYS if each in named)
    return adapter.relays


async def find_relay_plan(
    snapshot: Snapshot,
    request: RelayRequest,
    *,
    provider: str | None,
    rights: Rights,
    http: HttpClient,
) -> Plan:
    """Where a request goes: to `provider` where one is named, else to whom its model belongs, else
    to the default provider, else to the only one that has such an endpoint.

    Raises NotFound, ModelNotFound, PermissionDenied, UnsupportedEndpoint (naming who can) and
    InvalidRequest where several could and none is named.
    """
    plan = await _find(snapshot, request, provider=provider, rights=rights, http=http)
    targets = [each for each in plan.targets if request.relay in relays_of(each.provider)]
    if not targets:
        raise unsupported(snapshot, request.relay, rights)
    # What cannot be sent twice has one place to go.
    return Plan(plan.model, tuple(targets[:1] if request.once else targets), plan.route)


async def _find(
    snapshot: Snapshot,
    request: RelayRequest,
    *,
    provider: str | None,
    rights: Rights,
    http: HttpClient,
) -> Plan:
    model = request.model
    if provider is not None:
        return _named(snapshot, provider, model, rights)
    if model is None:
        return _whole(snapshot, _choose(snapshot, request.relay, rights), rights)
    if model in snapshot.routes or model.partition("/")[0] in snapshot.providers:
        return await find_plan(snapshot, model, may_use=rights.may_use, http=http)
    try:
        plan = await find_plan(snapshot, model, may_use=rights.may_use, http=http)
        if any(request.relay in relays_of(each.provider) for each in plan.targets):
            return plan
    except ModelNotFound:
        if len(list(_able(snapshot, request.relay))) != 1:
            raise
    return _named(snapshot, _choose(snapshot, request.relay, rights), model, rights)


def _named(snapshot: Snapshot, name: str, model: str | None, rights: Rights) -> Plan:
    if name not in snapshot.providers or not snapshot.providers[name].usable:
        raise NotFound(
            f"There is no provider '{name[:200]}'.", param="provider", code="provider_not_found"
        )
    if model is None:
        return _whole(snapshot, name, rights)
    target = snapshot.target(name, model.removeprefix(f"{name}/"))
    if not (target.model and target.facts.enabled and rights.may_use(target.public_name)):
        raise ModelNotFound(f"The model '{model[:200]}' does not exist.", param="model")
    return Plan(target.public_name, (target,))


def _whole(snapshot: Snapshot, name: str, rights: Rights) -> Plan:
    """A provider asked without a model, or for what belongs to its whole account."""
    if not rights.may_use_all(name):
        raise PermissionDenied(
            "The key may use some models only: it may not ask a provider without naming one, nor "
            "reach files and batches, which belong to a whole account."
        )
    return Plan("", (Target(snapshot.providers[name], ""),))


def _choose(snapshot: Snapshot, relay: Relay, rights: Rights) -> str:
    able = list(_able(snapshot, relay))
    if settings.DEFAULT_PROVIDER in able:
        return str(settings.DEFAULT_PROVIDER)
    if not able:
        raise unsupported(snapshot, relay, rights)
    if len(able) > 1:
        allowed = [name for name in able if rights.may_use_all(name)]
        if len(allowed) == 1:
            return allowed[0]
        raise InvalidRequest(
            f"Several providers have {relay}: name one as `provider/model`, with `?provider=` or "
            "with the header `x-gateway-provider`.",
            param="provider",
            code="provider_not_named",
        )
    return able[0]


def _able(snapshot: Snapshot, relay: Relay) -> Iterator[str]:
    return (
        provider.name for provider in snapshot.providers.values() if relay in relays_of(provider)
    )


def unsupported(
    snapshot: Snapshot, relay: Relay, rights: Rights, *, but: str = ""
) -> UnsupportedEndpoint:
    """The refusal that names who can, as far as the caller may know; `but` has said it cannot."""
    able = [name for name in _able(snapshot, relay) if name != but and rights.may_use_all(name)]
    those = f"These have: {', '.join(able)}." if able else "No other provider here has."
    return UnsupportedEndpoint(f"The provider asked has no {relay}. {those}")
