"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request

from chat.errors import InvalidRequest, ModelNotFound
from chat.types import ModelInfo
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.openai.schema import MODEL_RESPONSES, MODELS_RESPONSES
from gateway_api.resources import configuration, http_client
from keys.caller import Caller
from providers import discovery, listings
from providers.snapshot import Snapshot, Target, capabilities_of
from usage.fields import usd_text
from usage.pricing import unit_prices

REFRESH = OpenApiParameter(
    "refresh",
    str,
    enum=["1"],
    description="Ask the providers now. For admins; an ordinary key gets the remembered answer.",
)


class ModelsView(AsyncAPIView):
    """The models and routes the caller may use."""

    @extend_schema(
        operation_id="listModels",
        summary="List models",
        parameters=[REFRESH],
        responses=MODELS_RESPONSES,
        tags=["OpenAI wire"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        models = await usable_models(self.caller, refresh=wants_refresh(request, self.caller))
        return json_answer({"object": "list", "data": list(models.values())})


class ModelView(AsyncAPIView):
    """One model. Its id may hold slashes."""

    @extend_schema(
        operation_id="retrieveModel",
        summary="Retrieve a model",
        parameters=[REFRESH],
        responses=MODEL_RESPONSES,
        tags=["OpenAI wire"],
    )
    async def get(self, request: Request, name: str) -> AnyAnswer:
        if self.caller.may_use(name):
            refresh = wants_refresh(request, self.caller)
            if (model := await find_model(name, refresh=refresh)) is not None:
                return json_answer(model)
        raise ModelNotFound(f"The model '{name[:200]}' does not exist.", param="model")


def wants_refresh(request: Request, caller: Caller) -> bool:
    """Whether `?refresh=1` has the providers asked anew: only an admin's, because anyone else
    could have us ask upstreams as often as they ask us."""
    value = request.query_params.get("refresh")
    if value not in (None, "", "0", "1", "false", "true"):
        raise InvalidRequest("`refresh` must be 0 or 1.", param="refresh")
    return value in ("1", "true") and caller.is_admin


async def usable_models(caller: Caller, *, refresh: bool = False) -> dict[str, dict[str, Any]]:
    """Every public name the caller may use, as `/v1/models` tells it."""
    current = configuration()
    await discovery.list_all(current, http_client(), refresh=refresh)
    models = {
        route: _route(route, targets)
        for route, targets in _usable_routes(current)
        if caller.may_use(route)
    }
    for provider in current.providers.values():
        if provider.usable:
            for target, model in discovery.offered(current, provider):
                if target.public_name not in models and caller.may_use(target.public_name):
                    models[target.public_name] = _described(target, model)
    return models


async def find_model(name: str, *, refresh: bool = False) -> dict[str, Any] | None:
    """One public name as `/v1/models` tells it; only its own provider is asked."""
    current = configuration()
    for route, targets in _usable_routes(current):
        if route == name:
            return _route(name, targets)
    provider = current.providers.get(name.partition("/")[0])
    if provider is None or not provider.usable:
        return None
    await discovery.list_models(provider, http_client(), refresh=refresh)
    for target, model in discovery.offered(current, provider):
        if target.public_name == name:
            return _described(target, model)
    return None


def _usable_routes(current: Snapshot) -> Iterator[tuple[str, tuple[Target, ...]]]:
    for name, targets in current.routes.items():
        if any(map(_is_usable, targets)):
            yield name, targets


def _is_usable(target: Target) -> bool:
    return target.provider.usable and target.facts.enabled


def _route(name: str, targets: tuple[Target, ...]) -> dict[str, Any]:
    """A route can do what each of its usable targets can, and costs what all of them cost alike."""
    usable = [target for target in targets if _is_usable(target)]
    flags = [capabilities_of(target).as_dict() for target in usable]
    windows = [_window(target) for target in usable]
    prices = [_prices(target) for target in usable]
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "route",
        "targets": [target.public_name for target in targets],
        "capabilities": {flag: all(each[flag] for each in flags) for flag in flags[0]},
        "context_window": min(filter(None, windows)) if all(windows) else None,
        "pricing": prices[0] if all(each == prices[0] for each in prices) else None,
    }


def _described(target: Target, model: ModelInfo) -> dict[str, Any]:
    return {
        "id": target.public_name,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by or target.provider.name,
        "capabilities": capabilities_of(target).as_dict(),
        "context_window": target.facts.context_window or model.context_window,
        "pricing": _prices(target),
    }


def _window(target: Target) -> int | None:
    model = listings.models_of(target.provider).get(target.model)
    return target.facts.context_window or (model.context_window if model else None)


def _prices(target: Target) -> dict[str, str | None] | None:
    """USD per million tokens; None where the price is unknown."""
    prices = unit_prices(
        target.facts.prices,
        kind=target.provider.kind,
        base_url=target.provider.base_url,
        model=target.model,
        at=datetime.now(UTC),
    )
    if prices is None:
        return None
    return {
        "input": usd_text(prices.input),
        "output": usd_text(prices.output),
        "cached_input": usd_text(prices.cached_input),
        "cache_write": usd_text(prices.cache_write),
    }
