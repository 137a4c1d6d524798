"""Embeddings through Ollama's `/api/embed`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from chat.embeddings import embeddings_body, wants_base64
from chat.errors import InvalidRequest, UpstreamFailed
from chat.ndjson import UNREADABLE
from chat.requests import EmbeddingsRequest
from chat.types import Reply, Usage
from providers.adapters.ollama_lines import BYTES_PER_TOKEN, credible_count

_PASSED = frozenset({"dimensions", "truncate", "options", "keep_alive"})
_KNOWN = _PASSED | {"model", "input", "encoding_format"}


class _Embedded(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: int | None = None


def embed_payload(
    request: EmbeddingsRequest, *, model: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The body for `/api/embed`. Raises InvalidRequest for token ids and odd formats."""
    asked, body = request.params.input, request.body
    if not isinstance(asked, str) and not all(isinstance(each, str) for each in asked):
        raise InvalidRequest(
            "This provider embeds text only, no token ids.", param="input", code="invalid_type"
        )
    wants_base64(request.params)
    passed = {name: body[name] for name in _PASSED if body.get(name) is not None}
    request.dropped.update(name for name in body.keys() - _KNOWN if body[name] is not None)
    standing = {name: value for name, value in defaults.items() if name in _PASSED}
    return {**standing, **passed, "model": model, "input": asked}


def read_embedded(body: bytes, request: EmbeddingsRequest, *, model: str, native: bool) -> Reply:
    """The answer in OpenAI's shape, or as it came for a caller on the same wire. Raises
    UpstreamFailed for one that does not hold a vector for each input."""
    try:
        embedded = msgspec.json.decode(body, type=_Embedded)
    except UNREADABLE:
        raise UpstreamFailed("The provider's answer holds no embeddings.") from None
    asked = request.params.input
    if len(embedded.embeddings) != (1 if isinstance(asked, str) else len(asked)):
        raise UpstreamFailed("The provider's answer holds another number of embeddings.")
    counted = credible_count(embedded.prompt_eval_count)
    usage = Usage(max(1, request.size // BYTES_PER_TOKEN) if counted is None else counted)
    usage.total_tokens = usage.prompt_tokens
    if counted is None:
        usage.estimated = True
    if native:
        return Reply(body=body, finish_reason=None, usage=usage, wire="ollama")
    body = embeddings_body(
        embedded.embeddings,
        model=model,
        prompt_tokens=usage.prompt_tokens,
        as_base64=wants_base64(request.params),
    )
    return Reply(body=body, finish_reason=None, usage=usage)
