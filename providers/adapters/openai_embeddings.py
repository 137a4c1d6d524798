"""Reads OpenAI's embeddings: bytes kept where the vectors came as they were asked for."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from chat.embeddings import packed, unpacked
from chat.errors import UpstreamFailed
from chat.ndjson import UNREADABLE
from chat.types import Reply, Usage
from providers.adapters.base import Endpoint
from providers.adapters.openai_errors import error_in_band
from providers.adapters.openai_stream import mend_usage


class _Embedding(msgspec.Struct, gc=False):
    embedding: msgspec.Raw


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: Usage | None = None


_BEGINS = {b"[": "float", b'"': "base64"}
_decode = msgspec.json.Decoder(_Embeddings).decode


def read_embeddings(body: bytes, endpoint: Endpoint, *, wanted: str | None) -> Reply:
    """An answer with its vectors as `wanted`, "float" or "base64": many servers know floats only,
    whatever they are asked. Anything else leaves them as they are. Raises UpstreamFailed for a
    200 that holds no embeddings (M27)."""
    try:
        found = _decode(body)
    except UNREADABLE:
        body = _mended(body, endpoint)
        try:
            found = _decode(body)
        except UNREADABLE:
            raise _no_embeddings() from None
    begins = {bytes(each.embedding)[:1] for each in found.data}
    if not begins or not begins <= _BEGINS.keys():
        raise _no_embeddings()
    if wanted in _BEGINS.values() and {_BEGINS[first] for first in begins} != {wanted}:
        body = _converted(body, as_base64=wanted == "base64")
    return Reply(body=body, finish_reason=None, usage=found.usage)


def _mended(body: bytes, endpoint: Endpoint) -> bytes:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None
    if isinstance(fields, dict) and fields.get("error") is not None:
        raise error_in_band(fields["error"], endpoint)
    if not (isinstance(fields, dict) and _has_embeddings(fields.get("data"))):
        raise _no_embeddings()
    mend_usage(fields)
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:  # nested past what a writer takes
        raise _no_embeddings() from None


def _no_embeddings() -> UpstreamFailed:
    return UpstreamFailed("The provider's answer holds no embeddings.")


def _has_embeddings(data: Any) -> bool:
    return isinstance(data, list) and all(
        isinstance(each, dict) and "embedding" in each for each in data
    )


def _converted(body: bytes, *, as_base64: bool) -> bytes:
    change = packed if as_base64 else unpacked
    try:
        fields = orjson.loads(body)
        for each in fields["data"]:
            if isinstance(each["embedding"], str) != as_base64:
                each["embedding"] = change(each["embedding"])
        return orjson.dumps(fields)
    except (TypeError, ValueError, OverflowError):
        raise UpstreamFailed("The provider's answer holds what is no embedding.") from None
