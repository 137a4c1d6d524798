"""`GET /models` as OpenAI answers it, and what other servers tell in it beside the names.

Where each fact comes from, as published or recorded by 2026-11-25:

- context window: `context_length` (OpenRouter, Together), `context_window` (Groq, this gateway),
  `max_model_len` (vLLM), `max_context_length` (Mistral), `meta.n_ctx`, `meta.n_ctx_train`
  (llama.cpp: what the server was given, else what the model was trained on);
- capabilities: `supported_parameters` and `architecture.input_modalities` (OpenRouter),
  `capabilities` by our own names (this gateway) or Mistral's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from chat.errors import UpstreamUnreachable
from chat.types import ModelInfo
from providers.capabilities import CAPABILITY_NAMES

MAX_LISTING = 16 * 1024 * 1024
"""Bytes read of a listing. OpenRouter's, the longest known, has half a mebibyte."""
MAX_ID = 300
"""Characters of a model's name; what is longer is no name anybody could ask for."""
_MAX_WINDOW = 2**31 - 1

_WINDOWS = ("context_length", "context_window", "max_model_len", "max_context_length")
_PARAMETERS = {
    "tools": "tools",
    "tool_choice": "tool_choice",
    "structured_outputs": "structured_output",
    "response_format": "json_mode",
    "reasoning": "reasoning",
}
_MODALITIES = {"image": "vision", "audio": "audio"}
_ALIASES = {"function_calling": "tools", **{name: name for name in CAPABILITY_NAMES}}


def read_models(body: bytes) -> list[ModelInfo]:
    """The models of a listing, `{"data": […]}` or the bare list. An entry without a usable name is
    passed over: one odd model must not hide the others. Raises UpstreamUnreachable
    (kind="protocol") for what is no list of models."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    entries = told.get("data") if isinstance(told, dict) else told
    if not isinstance(entries, list):
        raise _unreadable()
    models = list(_models(entries))
    if entries and not models:
        raise _unreadable()
    return models


def _unreadable() -> UpstreamUnreachable:
    return UpstreamUnreachable(
        "The provider's model list could not be read.", kind="protocol", retryable=False
    )


def _models(entries: list[Any]) -> Iterator[ModelInfo]:
    for entry in entries:
        if isinstance(entry, dict) and is_name(entry.get("id")):
            yield ModelInfo(
                id=entry["id"],
                created=_number(entry.get("created")) or 0,
                owned_by=_text(entry.get("owned_by")),
                context_window=_context_window(entry),
                capabilities=_capabilities(entry) or None,
            )


def is_name(value: Any) -> bool:
    """Whether a listing's value can be a model's name."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_ID
        and value.isprintable()
        and value == value.strip()
    )


def _text(value: Any) -> str:
    return value[:MAX_ID] if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value <= _MAX_WINDOW else None


def _context_window(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    llama = (meta.get("n_ctx"), meta.get("n_ctx_train")) if isinstance(meta, dict) else ()
    told = (*(entry.get(name) for name in _WINDOWS), *llama)
    return next(filter(None, map(_number, told)), None)


def _capabilities(entry: dict[str, Any]) -> dict[str, bool]:
    flags: dict[str, bool] = {}
    if isinstance(parameters := entry.get("supported_parameters"), list) and parameters:
        flags |= {flag: name in parameters for name, flag in _PARAMETERS.items()}
    architecture = entry.get("architecture")
    if isinstance(architecture, dict):
        modalities = architecture.get("input_modalities")
        if isinstance(modalities, list) and modalities:
            flags |= {flag: name in modalities for name, flag in _MODALITIES.items()}
    if isinstance(named := entry.get("capabilities"), dict):
        flags |= {
            _ALIASES[name]: flag
            for name, flag in named.items()
            if name in _ALIASES and isinstance(flag, bool)
        }
    return flags
