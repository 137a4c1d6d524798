"""A model name to the targets that may serve it, in order."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from django.conf import settings

from chat.errors import InvalidRequest, ModelNotFound
from chat.types import Wire
from providers import discovery, listings
from providers.http import HttpClient
from providers.registry import adapter_class
from providers.snapshot import Snapshot, Target

MAX_NAME = 300
"""Characters of a model's name: the ledger's column. Names are remembered, and told in a header."""
MayUse = Callable[[str], bool]
"""Whether the caller may use a public model name."""


@dataclass(slots=True)
class Plan:
    """What a request was resolved to: its public name and the targets to try in order."""

    model: str
    targets: tuple[Target, ...]
    route: str = ""


async def find_plan(
    snapshot: Snapshot, model: str | None, *, may_use: MayUse, http: HttpClient
) -> Plan:
    """`resolve`, after asking the providers once where only their listings can tell: a bare name,
    or a name close to the misspelt one."""
    try:
        return resolve(snapshot, model, may_use=may_use)
    except ModelNotFound:
        if discovery.is_known(snapshot):
            raise
    await discovery.list_all(snapshot, http)
    return resolve(snapshot, model, may_use=may_use)


def resolve(snapshot: Snapshot, model: str | None, *, may_use: MayUse) -> Plan:
    """Raises ModelNotFound, naming what is close, also for a model the caller may not use, and
    InvalidRequest when no model is named and none is configured."""
    name = model or _default_model()
    if not name:
        raise InvalidRequest(
            "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
        )
    plan = _find(snapshot, name) if len(name) <= MAX_NAME else None
    if plan is None or not may_use(plan.model):
        raise _not_found(snapshot, name, may_use)
    return plan


def speaking(plan: Plan, wire: Wire) -> Plan | None:
    """The part of a plan whose upstreams speak this wire themselves; None when none does."""
    targets = tuple(target for target in plan.targets if _speaks(target, wire))
    return replace(plan, targets=targets) if targets else None


def _speaks(target: Target, wire: Wire) -> bool:
    adapter = adapter_class(target.provider.kind)
    return adapter is not None and adapter.wire == wire


def _find(snapshot: Snapshot, name: str) -> Plan | None:
    targets = snapshot.routes.get(name)
    if targets is not None:
        usable = tuple(target for target in targets if _is_usable(target))
        return Plan(name, usable, route=name) if usable else None
    provider_name, slash, model = name.partition("/")
    if slash and model and provider_name in snapshot.providers:
        return _direct(snapshot, provider_name, model)
    return _bare(snapshot, name)


def _direct(snapshot: Snapshot, provider: str, model: str) -> Plan | None:
    target = snapshot.target(provider, model)
    return Plan(target.public_name, (target,)) if _is_usable(target) else None


def _bare(snapshot: Snapshot, name: str) -> Plan | None:
    """A name without a provider: the one that offers it, else the default provider."""
    offering = [
        provider
        for provider in snapshot.providers.values()
        if provider.usable and name in listings.models_of(provider)
    ]
    if len(offering) == 1:
        return _direct(snapshot, offering[0].name, name)
    if settings.DEFAULT_PROVIDER in snapshot.providers:
        return _direct(snapshot, settings.DEFAULT_PROVIDER, name)
    return None


def _is_usable(target: Target) -> bool:
    return target.provider.usable and target.facts.enabled


def _default_model() -> str:
    model, provider = settings.DEFAULT_MODEL, settings.DEFAULT_PROVIDER
    if model and provider and not model.startswith(f"{provider}/"):
        return f"{provider}/{model}"
    return str(model)


def _not_found(snapshot: Snapshot, name: str, may_use: MayUse) -> ModelNotFound:
    shown = name[:200]
    names = [known for known in discovery.public_names(snapshot) if may_use(known)]
    close = difflib.get_close_matches(shown, names[:5000], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return ModelNotFound(f"The model '{shown}' does not exist.{hint}", param="model")
