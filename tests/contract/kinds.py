"""Every kind of provider, and the dialect that scripts its upstream.

A new kind is one line here, and a dialect where its wire is a new one.
"""

from __future__ import annotations

from tests.contract.dialects import AnthropicDialect, Dialect, OllamaDialect, OpenAIDialect

OPENAI = OpenAIDialect()
ANTHROPIC = AnthropicDialect()
OLLAMA = OllamaDialect()

SPEAKS: dict[str, Dialect] = {
    "openai": OPENAI,
    "openai-compatible": OPENAI,
    "lmstudio": OPENAI,
    "mlx": OPENAI,
    "huggingface": OPENAI,
    "anthropic": ANTHROPIC,
    "ollama": OLLAMA,
}
"""`mlx` and `huggingface` serve models of this machine too, where a row has no address: those are
tested in tests/local_models."""

ASKS_NOBODY = {"fake"}
"""Kinds without an upstream, which have nothing but scripts of their own."""
