"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import ModelNotFound
from chat.types import ModelInfo
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.openai.schema import MODEL_RESPONSES, MODELS_RESPONSES
from gateway_api.resources import http_client
from keys.caller import Caller
from providers import discovery, snapshot
from providers.registry import adapter_class
from providers.snapshot import Snapshot, Target
from usage.fields import usd_text
from usage.pricing import UnitPrices, unit_prices


class ModelsView(AsyncAPIView):
    """The models and routes the caller may use."""

    @extend_schema(
        operation_id="listModels",
        summary="List models",
        responses=MODELS_RESPONSES,
        tags=["OpenAI wire"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        models = await usable_models(self.caller)
        return json_answer({"object": "list", "data": list(models.values())})


class ModelView(AsyncAPIView):
    """One model. Its id may hold slashes."""

    @extend_schema(
        operation_id="retrieveModel",
        summary="Retrieve a model",
        responses=MODEL_RESPONSES,
        tags=["OpenAI wire"],
    )
    async def get(self, request: Request, name: str) -> AnyAnswer:
        models = await usable_models(self.caller)
        if name not in models:
            raise ModelNotFound(f"The model '{name[:200]}' does not exist.", param="model")
        return json_answer(models[name])


async def usable_models(caller: Caller) -> dict[str, dict[str, Any]]:
    """Every public name the caller may use, as `/v1/models` tells it."""
    configuration = snapshot.current()
    await discovery.list_all(configuration, http_client())
    return {
        model["id"]: model
        for model in (*_routes(configuration), *_models(configuration))
        if caller.may_use(model["id"])
    }


def _routes(configuration: Snapshot) -> Iterator[dict[str, Any]]:
    for name, targets in configuration.routes.items():
        if any(target.provider.usable and target.facts.enabled for target in targets):
            yield {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "route",
                "targets": [target.public_name for target in targets],
            }


def _models(configuration: Snapshot) -> Iterator[dict[str, Any]]:
    for provider in configuration.providers.values():
        if not provider.usable:
            continue
        listed = {model.id: model for model in discovery.listed_models(provider)}
        for name in discovery.configured_models(configuration, provider):
            listed.setdefault(name, ModelInfo(id=name, owned_by=provider.name))
        for model in listed.values():
            target = configuration.target(provider.name, model.id)
            if target.facts.enabled:
                yield _described(target, model)


def _described(target: Target, model: ModelInfo) -> dict[str, Any]:
    adapter = adapter_class(target.provider.kind)
    assert adapter is not None, "a provider without an adapter is not usable"
    capabilities = adapter.defaults.with_overrides(target.facts.capabilities)
    prices = unit_prices(
        target.facts.prices,
        kind=target.provider.kind,
        base_url=target.provider.base_url,
        model=target.model,
        at=datetime.now(UTC),
    )
    return {
        "id": target.public_name,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by or target.provider.name,
        "capabilities": capabilities.as_dict(),
        "context_window": target.facts.context_window or model.context_window,
        "pricing": _pricing(prices),
    }


def _pricing(prices: UnitPrices | None) -> dict[str, str | None] | None:
    """USD per million tokens; None where the price is unknown."""
    if prices is None:
        return None
    return {
        "input": usd_text(prices.input),
        "output": usd_text(prices.output),
        "cached_input": usd_text(prices.cached_input),
        "cache_write": usd_text(prices.cache_write),
    }
