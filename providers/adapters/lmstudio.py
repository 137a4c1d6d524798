"""LM Studio: OpenAI's wire, and facts about its models in its own REST API.

`GET /v1/models` says which models it would answer for; what it knows of them stands in
`GET /api/v1/models` (from LM Studio 0.4.0), before that in `GET /api/v0/models` (from 0.3.6, tools
from 0.3.16). Shapes as documented by LM Studio in 2026-11. Servers without an endpoint answer 200
with an error in the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import orjson

from chat.errors import UpstreamError
from chat.types import ModelInfo
from providers.adapters.base import Endpoint
from providers.adapters.openai import OpenAICompatibleAdapter
from providers.adapters.openai_models import MAX_LISTING
from providers.http import HttpClient


@dataclass(frozen=True, slots=True)
class Facts:
    """What LM Studio says of a model, as far as it says it."""

    context_window: int | None = None
    """Of the loaded instance, which is often less than the model could have."""
    capabilities: Mapping[str, bool] | None = None
    publisher: str = ""


class LMStudioAdapter(OpenAICompatibleAdapter):
    """Its address may be the server's root, as in LMSTUDIO_HOST, or end in `/v1`."""

    kind = "lmstudio"
    relays = frozenset()
    default_base_url = "http://127.0.0.1:1234/v1"

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        base = endpoint.base_url or self.default_base_url
        self._root = base.rstrip("/").removesuffix("/v1")
        super().__init__(replace(endpoint, base_url=f"{self._root}/v1"), http)

    async def list_models(self) -> list[ModelInfo]:
        """The models it would answer for, with what it tells of each. Facts that cannot be had
        cost nothing but themselves."""
        models, facts = await asyncio.gather(super().list_models(), self._facts())
        return [_with_facts(model, facts.get(model.id)) for model in models]

    async def _facts(self) -> dict[str, Facts]:
        for path, read in (("/api/v1/models", read_v1_facts), ("/api/v0/models", read_v0_facts)):
            try:
                facts = read(await self._get(path))
            except UpstreamError:
                return {}  # the listing itself tells what is wrong
            if facts:
                return facts
        return {}

    async def _get(self, path: str) -> Any:
        """The JSON there; None where there is none."""
        reply = await self.http.request(
            "GET",
            f"{self._root}{path}",
            headers=self._headers,
            timeouts=self.endpoint.timeouts,
        )
        try:
            body = await reply.read(limit=MAX_LISTING) if reply.status == 200 else b""
        finally:
            reply.close()
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            return None


def read_v1_facts(body: Any) -> dict[str, Facts]:
    """`{"models": [{"key", "type", "max_context_length", "capabilities"?, "loaded_instances"}]}`:
    by key, and by the id of each loaded instance."""
    facts: dict[str, Facts] = {}
    for model in _entries(body, "models"):
        key, window = _text(model.get("key")), _count(model.get("max_context_length"))
        told = Facts(window, _v1_capabilities(model), _text(model.get("publisher")))
        instances = [
            each for each in _list(model.get("loaded_instances")) if isinstance(each, dict)
        ]
        for instance in instances:
            config = instance.get("config")
            loaded = _count(config.get("context_length")) if isinstance(config, dict) else None
            facts[_text(instance.get("id"))] = replace(told, context_window=loaded or window)
        facts.setdefault(key, facts[_text(instances[0].get("id"))] if instances else told)
    facts.pop("", None)
    return facts


def read_v0_facts(body: Any) -> dict[str, Facts]:
    """`{"data": [{"id", "type", "max_context_length", "loaded_context_length"?, "capabilities"?}]}`
    by id."""
    return {
        name: Facts(
            _count(model.get("loaded_context_length")) or _count(model.get("max_context_length")),
            _v0_capabilities(model),
            _text(model.get("publisher")),
        )
        for model in _entries(body, "data")
        if (name := _text(model.get("id")))
    }


def _v1_capabilities(model: Mapping[str, Any]) -> dict[str, bool]:
    if model.get("type") == "embedding":
        return _EMBEDS
    told = model.get("capabilities")
    told = told if isinstance(told, dict) else {}
    found = {"embeddings": False} if model.get("type") == "llm" else {}
    for name, theirs in (("vision", "vision"), ("tools", "trained_for_tool_use")):
        if isinstance(told.get(theirs), bool):
            found[name] = told[theirs]
    if isinstance(told.get("reasoning"), dict):
        found["reasoning"] = True
    return found


def _v0_capabilities(model: Mapping[str, Any]) -> dict[str, bool]:
    kind = model.get("type")
    if kind == "embeddings":
        return _EMBEDS
    found = {"embeddings": False, "vision": kind == "vlm"} if kind in ("llm", "vlm") else {}
    told = model.get("capabilities")
    if isinstance(told, list):
        found["tools"] = "tool_use" in told
    return found


_EMBEDS = {"embeddings": True, "tools": False, "vision": False, "reasoning": False}


def _with_facts(model: ModelInfo, facts: Facts | None) -> ModelInfo:
    if facts is None:
        return model
    return msgspec.structs.replace(
        model,
        context_window=facts.context_window or model.context_window,
        capabilities=dict(facts.capabilities) if facts.capabilities else model.capabilities,
        owned_by=facts.publisher or model.owned_by,
    )


def _entries(body: Any, name: str) -> Iterator[dict[str, Any]]:
    if isinstance(body, dict):
        yield from (each for each in _list(body.get(name)) if isinstance(each, dict))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
