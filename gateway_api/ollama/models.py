"""`GET /api/tags`, `POST /api/show`, `GET /api/ps` and `GET /api/version`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import GatewayError, ModelNotFound
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import read_json_body
from gateway_api.ollama import schema
from gateway_api.ollama.fields import ShowFields
from gateway_api.ollama.requests import parse_fields
from gateway_api.ollama.view import OllamaView, public_name
from gateway_api.openai.models import find_model, usable_models
from gateway_api.resources import configuration, http_client
from providers.routing import find_plan
from providers.snapshot import ProviderFacts, Target, build_adapter

API_VERSION = "0.12.6"
"""The version of Ollama whose API this is. Clients turn features off, or refuse to work, by it:
GitHub Copilot in VS Code wants 0.6.4 at least."""

_ARCHITECTURE = "gateway"
_RUNNING_TIMEOUT_S = 3.0
_NEVER = "2318-01-01T00:00:00Z"
"""What Ollama tells of a model with `keep_alive: -1`: a few centuries on."""
_CAPABILITIES = (("tools", "tools"), ("vision", "vision"), ("reasoning", "thinking"))


class TagsView(OllamaView):
    """The models and routes the caller may use, under the names `/v1/models` gives them."""

    @extend_schema(
        operation_id="ollamaTags",
        summary="List models",
        responses=schema.MODELS_RESPONSES,
        tags=["Ollama wire"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        models = await usable_models(self.caller)
        return json_answer({"models": [_listed(model) for model in models.values()]})


class ShowView(OllamaView):
    """What is known of one model."""

    @extend_schema(
        operation_id="ollamaShow",
        summary="Show a model",
        request=schema.SHOW_REQUEST,
        responses=schema.SHOW_RESPONSES,
        tags=["Ollama wire"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        _, fields = parse_fields(await read_json_body(request), ShowFields)
        name = await public_name(fields.model or fields.name)
        may_use = self.caller.may_use
        plan = await find_plan(configuration(), name, may_use=may_use, http=http_client())
        model = await find_model(plan.model)
        if model is None:
            raise ModelNotFound(f"The model '{plan.model[:200]}' does not exist.", param="model")
        return json_answer(_shown(model))


class RunningView(OllamaView):
    """The models that are in a provider's memory, of the providers that tell."""

    @extend_schema(
        operation_id="ollamaPs",
        summary="List running models",
        responses=schema.MODELS_RESPONSES,
        tags=["Ollama wire"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        providers = [each for each in configuration().providers.values() if each.usable]
        found = await asyncio.gather(*map(_running, providers))
        running = [each for models in found for each in models]
        return json_answer(
            {"models": [each for each in running if self.caller.may_use(each["name"])]}
        )


class VersionView(OllamaView):
    """The version of the API spoken here."""

    @extend_schema(
        operation_id="ollamaVersion",
        summary="The API's version",
        responses=schema.VERSION_RESPONSES,
        tags=["Ollama wire"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        return json_answer({"version": API_VERSION})


async def _running(provider: ProviderFacts) -> list[dict[str, Any]]:
    """What one provider runs; nothing of one that does not answer soon."""
    try:
        async with asyncio.timeout(_RUNNING_TIMEOUT_S):
            running = await build_adapter(Target(provider, ""), http_client()).list_running()
    except (TimeoutError, GatewayError):
        return []
    return [
        {
            "name": f"{provider.name}/{model.id}",
            "model": f"{provider.name}/{model.id}",
            "size": model.size,
            "digest": _digest(f"{provider.name}/{model.id}"),
            "details": _details({"owned_by": provider.kind}),
            "expires_at": model.expires_at or _NEVER,
            "size_vram": model.size_vram,
            "context_length": model.context_window or 0,
        }
        for model in running
    ]


def _digest(name: str) -> str:
    """It stands for the name, because Ollama's command line cuts its first twelve characters off
    without a look."""
    return hashlib.sha256(name.encode()).hexdigest()


def _listed(model: Mapping[str, Any]) -> dict[str, Any]:
    """`size` is 0, since nothing lies here."""
    return {
        "name": model["id"],
        "model": model["id"],
        "modified_at": _modified_at(model),
        "size": 0,
        "digest": _digest(model["id"]),
        "details": _details(model),
        "capabilities": capability_words(model),
    }


def _shown(model: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"general.architecture": _ARCHITECTURE}
    if model.get("context_window"):
        facts[f"{_ARCHITECTURE}.context_length"] = model["context_window"]
    return {
        "license": "",
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": facts,
        "capabilities": capability_words(model),
        "modified_at": _modified_at(model),
    }


def _details(model: Mapping[str, Any]) -> dict[str, Any]:
    family = str(model["owned_by"])
    return {
        "parent_model": "",
        "format": "",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
    }


def _modified_at(model: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(model["created"] or 0, UTC).isoformat().replace("+00:00", "Z")


def capability_words(model: Mapping[str, Any]) -> list[str]:
    """A model's flags in Ollama's words. A route without flags of its own can chat."""
    flags = model.get("capabilities") or {}
    words = [word for flag, word in _CAPABILITIES if flags.get(flag)]
    return ["completion", *words, *(["embedding"] if flags.get("embeddings") else [])]
