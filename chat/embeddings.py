"""Embeddings in the OpenAI shape."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Iterable, Sequence

import orjson


def embeddings_body(
    vectors: Iterable[Sequence[float]], *, model: str, prompt_tokens: int, as_base64: bool
) -> bytes:
    """A whole answer; in base64 a vector is its 32-bit little-endian floats."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _packed(vector) if as_base64 else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def _packed(vector: Sequence[float]) -> str:
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
