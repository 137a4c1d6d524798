"""Embeddings in the OpenAI shape."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Iterable, Sequence

import orjson

from chat.errors import InvalidRequest
from chat.requests import EmbeddingsParams


def wants_base64(params: EmbeddingsParams) -> bool:
    """Whether vectors are to be told in base64. Raises InvalidRequest for a format that is neither
    OpenAI's: for adapters that write the answer themselves."""
    if params.encoding_format not in (None, "float", "base64"):
        raise InvalidRequest(
            "Invalid value for 'encoding_format': it must be `float` or `base64`.",
            param="encoding_format",
            code="invalid_value",
        )
    return params.encoding_format == "base64"


def embeddings_body(
    vectors: Iterable[Sequence[float]], *, model: str, prompt_tokens: int, as_base64: bool
) -> bytes:
    """A whole answer; in base64 a vector is its 32-bit little-endian floats."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": packed(vector) if as_base64 else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def packed(vector: Sequence[float]) -> str:
    """A vector in base64. Raises TypeError for what is no list of numbers."""
    return base64.b64encode(_little_endian(array.array("f", vector)).tobytes()).decode()


def unpacked(text: str) -> list[float]:
    """The vector in a base64 text. Raises ValueError for what is none."""
    vector = array.array("f")
    vector.frombytes(base64.b64decode(text, validate=True))
    return _little_endian(vector).tolist()


def _little_endian(floats: array.array[float]) -> array.array[float]:
    if sys.byteorder == "big":
        floats.byteswap()
    return floats
