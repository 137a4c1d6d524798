"""What an engine must be able to do. It knows tensors and nothing of text, HTTP or threads: all its
methods are called in one thread, the one that made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

PROMPT_PART, PROMPT_PART_ON_CPU = 512, 64
"""Tokens of a prompt computed in one go: between two parts a caller's leaving is noticed. A CPU
gains little from larger parts, and takes seconds for them (512: 16 s with MLX and SmolLM2-135M,
2026-11-25)."""


class Decoding(Protocol):
    """One answer in the making, as the engine sees it."""

    def check(self) -> None:
        """To be called between parts of the prompt. Raises Cancelled."""

    def next_token(self, logits: Any) -> int | None:
        """Takes the logits after the last token (one-dimensional, float32, numpy) and says which
        token follows; None where the answer ends. Raises Cancelled."""


class Engine(Protocol):
    def generate(self, prompt: Sequence[int], decoding: Decoding, *, most: int) -> None:
        """Computes until `decoding` ends it, which it does at `most` tokens or before."""

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """The mean of the last layer's output over all tokens, as it comes."""
