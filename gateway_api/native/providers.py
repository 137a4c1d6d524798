"""`GET /v1/providers` and `GET /v1/providers/{name}/models`: who can be asked, and how they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request

from chat.errors import NotFound, UpstreamError
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.openai.models import REFRESH, wants_refresh
from gateway_api.openai.schema import ERROR, ERROR_RESPONSES
from gateway_api.resources import configuration, http_client
from gateway_api.schemas import only
from keys.caller import Caller
from providers import breakers, discovery
from providers.health import status_of, with_breakers
from providers.listings import Listing
from providers.snapshot import ProviderFacts, Snapshot, Target, capabilities_of
from usage.summaries import rfc3339

MODELS_SHOWN = 10
SHOWN_CAPABILITIES = ("tools", "vision", "streaming", "structured_output", "embeddings")
STATUSES = ("healthy", "degraded", "unavailable", "not_configured", "disabled")

_REASONS = {
    "auth": "The provider refuses the gateway's credential.",
    "network": "The provider cannot be reached.",
    "dns": "The provider's name has no address.",
    "tls": "No secure connection to the provider can be made.",
    "timeout": "The provider does not answer in time.",
    "not_found": "The provider does not list its models.",
    "rate_limit": "The provider's rate limit was reached.",
    "protocol": "The provider's answer could not be used.",
}
"""What an ordinary key is told. An upstream's own words may name hosts and accounts of the
operator's: they are for administrators."""
_RESTING = "It lists its models, but calls fail: a circuit breaker is open."

_PROVIDER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"type": "string"},
        "status": {"type": "string", "enum": list(STATUSES)},
        "models": {
            "type": "array",
            "items": {"type": "string"},
            "maxItems": MODELS_SHOWN,
            "description": "The first of the models this key may use, by the provider's names.",
        },
        "model_count": {"type": "integer", "description": "How many this key may use."},
        "capabilities": {
            "type": "object",
            "properties": {name: {"type": "boolean"} for name in SHOWN_CAPABILITIES},
            "description": "What at least one of these models can do; where there is none, what "
            "the provider's kind can.",
        },
        "latency_ms": {"type": ["integer", "null"], "description": "Of its last answer."},
        "error": {"type": ["string", "null"], "description": "Why it is not healthy."},
        "last_check": {"type": ["string", "null"], "format": "date-time"},
    },
}
_PROVIDERS = {
    "type": "object",
    "properties": {"providers": {"type": "array", "items": _PROVIDER}},
}
_MODELS = {
    "type": "object",
    "properties": {
        "provider": {"type": "string"},
        "models": {"type": "array", "items": {"type": "string"}},
        "count": {"type": "integer"},
    },
}


class ProvidersView(AsyncAPIView):
    """Every configured provider, also one that is down, switched off or lacks its credential."""

    @extend_schema(
        operation_id="list_providers",
        summary="Providers and how they are",
        description="Every key sees every provider; of its models, those the key may use.",
        parameters=[REFRESH],
        responses={(200, "application/json"): _PROVIDERS, **only(ERROR_RESPONSES, 400, 401)},
        tags=["Providers"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        current = configuration()
        refresh = wants_refresh(request, self.caller)
        found = await discovery.list_all(current, http_client(), refresh=refresh)
        resting = breakers.resting()
        shown = [
            _described(current, provider, found.get(provider.name), resting, self.caller)
            for provider in current.providers.values()
        ]
        return json_answer({"providers": shown})


class ProviderModelsView(AsyncAPIView):
    """The models of one provider, by its own names."""

    @extend_schema(
        operation_id="list_provider_models",
        summary="Models of one provider",
        parameters=[REFRESH],
        responses={
            (200, "application/json"): _MODELS,
            **only(ERROR_RESPONSES, 401, 502),
            (404, "application/json"): OpenApiResponse(ERROR, description="No such provider."),
        },
        tags=["Providers"],
    )
    async def get(self, request: Request, name: str) -> AnyAnswer:
        current = configuration()
        provider = current.providers.get(name)
        if provider is None:
            raise NotFound(f"There is no provider '{name[:100]}'.", code="provider_not_found")
        if not provider.usable:
            why = _why_unusable(provider, self.caller)
            raise _not_listed(provider, status_of(provider, None), why)
        refresh = wants_refresh(request, self.caller)
        listing = await discovery.list_models(provider, http_client(), refresh=refresh)
        if listing.error is not None:
            why = _reason(listing, self.caller)
            raise _not_listed(provider, status_of(provider, listing), why)
        models = [target.model for target in _usable_targets(current, provider, self.caller)]
        return json_answer({"provider": name, "models": models, "count": len(models)})


def _not_listed(provider: ProviderFacts, status: str, reason: str) -> UpstreamError:
    error = UpstreamError(
        f"The models of '{provider.name}' cannot be listed. {reason}", code=f"provider_{status}"
    )
    error.should_retry = provider.usable
    return error


def _described(
    current: Snapshot,
    provider: ProviderFacts,
    listing: Listing | None,
    resting: Collection[str],
    caller: Caller,
) -> dict[str, Any]:
    targets = _usable_targets(current, provider, caller)
    listed = status_of(provider, listing)
    status = with_breakers(listed, provider, resting)
    error = None
    if not provider.usable:
        error = _why_unusable(provider, caller)
    elif status != listed:
        error = _RESTING
    elif listing is not None and listing.error:
        error = _reason(listing, caller)
    return {
        "name": provider.name,
        "kind": provider.kind,
        "status": status,
        "models": [target.model for target in targets[:MODELS_SHOWN]],
        "model_count": len(targets),
        "capabilities": _capabilities(provider, targets),
        "latency_ms": listing.latency_ms if listing else None,
        "error": error,
        "last_check": rfc3339(listing.checked_at) if listing else None,
    }


def _usable_targets(current: Snapshot, provider: ProviderFacts, caller: Caller) -> list[Target]:
    if not provider.usable:
        return []
    return [
        target
        for target, _ in discovery.offered(current, provider)
        if caller.may_use(target.public_name)
    ]


def _why_unusable(provider: ProviderFacts, caller: Caller) -> str:
    if not provider.enabled:
        return "It is switched off."
    if caller.is_admin and provider.problem:
        return f"{provider.problem[:1].upper()}{provider.problem[1:]}."
    return "It is not set up."


def _reason(listing: Listing, caller: Caller) -> str:
    if caller.is_admin and listing.error:
        return listing.error
    return _REASONS.get(listing.error_kind or "", _REASONS["protocol"])


def _capabilities(provider: ProviderFacts, targets: list[Target]) -> dict[str, bool]:
    able = dict.fromkeys(SHOWN_CAPABILITIES, False)
    for target in targets or [Target(provider, "")]:
        flags = capabilities_of(target)
        able = {name: able[name] or getattr(flags, name) for name in SHOWN_CAPABILITIES}
        if all(able.values()):
            break
    return able
