"""What an Ollama server tells of its models: `/api/tags`, `/api/show` and `/api/ps`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from chat.errors import UpstreamUnreachable
from chat.ndjson import UNREADABLE
from chat.types import ModelInfo, RunningModel
from providers.adapters.openai_models import is_name

_FLAGS = {"tools": "tools", "vision": "vision", "thinking": "reasoning", "embedding": "embeddings"}
"""Ollama's words for what a model can do, and our flags."""


class _Listed(msgspec.Struct):
    name: str = ""
    model: str = ""
    modified_at: str = ""


class _Tags(msgspec.Struct):
    models: list[_Listed] | None = None


class _Running(msgspec.Struct):
    name: str = ""
    model: str = ""
    size: int = 0
    size_vram: int = 0
    expires_at: str = ""
    context_length: int | None = None


class _Processes(msgspec.Struct):
    models: list[_Running] | None = None


class _Shown(msgspec.Struct):
    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None


def read_tags(body: bytes) -> list[ModelInfo]:
    """`GET /api/tags`. Raises UpstreamUnreachable(kind="protocol") for what is no such list."""
    try:
        tags = msgspec.json.decode(body, type=_Tags)
    except UNREADABLE:
        raise _unreadable() from None
    return [
        ModelInfo(id=each.model or each.name, created=_seconds(each.modified_at), owned_by="ollama")
        for each in tags.models or ()
        if is_name(each.model or each.name)
    ]


def read_processes(body: bytes) -> list[RunningModel]:
    """`GET /api/ps`. Raises UpstreamUnreachable(kind="protocol")."""
    try:
        processes = msgspec.json.decode(body, type=_Processes)
    except UNREADABLE:
        raise _unreadable() from None
    return [
        RunningModel(
            id=each.model or each.name,
            size=each.size,
            size_vram=each.size_vram,
            expires_at=each.expires_at,
            context_window=each.context_length,
        )
        for each in processes.models or ()
        if is_name(each.model or each.name)
    ]


def read_shown(body: bytes, model: ModelInfo) -> ModelInfo:
    """`model` with what `POST /api/show` adds: capabilities (servers since 0.6.4) and the context
    window the model was trained for. Raises UpstreamUnreachable(kind="protocol")."""
    try:
        shown = msgspec.json.decode(body, type=_Shown)
    except UNREADABLE:
        raise _unreadable() from None
    flags = None
    if shown.capabilities is not None:
        flags = {flag: word in shown.capabilities for word, flag in _FLAGS.items()}
    return ModelInfo(
        id=model.id,
        created=model.created,
        owned_by=model.owned_by,
        context_window=_context_window(shown.model_info or {}),
        capabilities=flags,
    )


def _context_window(facts: dict[str, Any]) -> int | None:
    """`<architecture>.context_length`, as GGUF files name it."""
    window = facts.get(f"{facts.get('general.architecture')}.context_length")
    if window is None:
        window = next((facts[name] for name in facts if name.endswith(".context_length")), None)
    return window if isinstance(window, int) and window > 0 else None


def _seconds(modified_at: str) -> int:
    try:
        return int(datetime.fromisoformat(modified_at).timestamp())
    except (ValueError, OverflowError):
        return 0


def _unreadable() -> UpstreamUnreachable:
    return UpstreamUnreachable(
        "The provider's model list could not be read.", kind="protocol", retryable=False
    )
