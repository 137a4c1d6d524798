"""Which adapter speaks to which kind. A new kind is one file and one line here.

Imports happen on first use: no kind costs the start of a gateway that does not use it.
"""

from __future__ import annotations

from importlib import import_module

from providers.adapters.base import ChatAdapter

_ADAPTERS = {
    "openai": "providers.adapters.openai:OpenAIAdapter",
    "openai-compatible": "providers.adapters.openai:OpenAICompatibleAdapter",
    "anthropic": "providers.adapters.anthropic:AnthropicAdapter",
    "lmstudio": "providers.adapters.lmstudio:LMStudioAdapter",
    "ollama": "providers.adapters.ollama:OllamaAdapter",
    "mlx": "providers.adapters.mlx:MLXAdapter",
    "huggingface": "providers.adapters.huggingface:HuggingFaceAdapter",
    "fake": "providers.adapters.fake:FakeAdapter",
}


def adapter_class(kind: str) -> type[ChatAdapter] | None:
    """The adapter of a kind; None for a kind this version cannot speak to yet."""
    place = _ADAPTERS.get(kind)
    if place is None:
        return None
    module, name = place.split(":")
    adapter: type[ChatAdapter] = getattr(import_module(module), name)
    return adapter
