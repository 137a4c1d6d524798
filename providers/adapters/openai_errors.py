"""OpenAI-shaped failures, by status and in band, as GatewayErrors.

Statuses as in the OpenAI API reference; 529 is Anthropic's overload, which compatible servers
re-use. A bad credential of *ours* is never told as 401 (M39): the caller would rotate a good key.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import orjson

from chat.errors import (
    UpstreamCredentials,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from providers.adapters.base import Endpoint
from providers.http import HttpReply

_SECRET = re.compile(r"\b(?:sk|gw|hf|xai|gsk|pplx|key)[-_][A-Za-z0-9_\-*.]{6,}|(?i:bearer)\s+\S+")
_ADDRESS = re.compile(r"https?://(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]|localhost)\S*")
_MOMENT = re.compile(r"\d{1,9}(\.\d{1,9})?|[A-Za-z]{3,9}, ?[0-9A-Za-z :+-]{1,40}")
"""A `retry-after`: seconds or an HTTP date. Callers get it as it is."""
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "overloaded_error": 503,
    "timeout": 504,
}
MAX_MESSAGE = 2000
_MAX_ERROR = 1 << 20


async def read_error(reply: HttpReply) -> bytes:
    """The body of an answer that is an error; nothing where it cannot be read, as the status alone
    tells enough."""
    try:
        return await reply.read(limit=_MAX_ERROR)
    except UpstreamError:
        return b""


def error_of(reply: HttpReply, body: bytes, endpoint: Endpoint) -> UpstreamError:
    """`error_from_reply` of a reply and the body it had."""
    retry_after = reply.headers.get("retry-after")
    return error_from_reply(reply.status, body, retry_after=retry_after, endpoint=endpoint)


def error_from_reply(
    status: int, body: bytes, *, retry_after: str | None, endpoint: Endpoint
) -> UpstreamError:
    """The error an upstream's non-200 answer means."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = {}  # a proxy's HTML page says nothing a caller could use
    error = told.get("error", told) if isinstance(told, dict) else {}
    if retry_after is not None and not _MOMENT.fullmatch(retry_after):
        retry_after = None
    return _build(status, error, retry_after=retry_after, endpoint=endpoint)


def error_in_band(error: Any, endpoint: Endpoint) -> UpstreamError:
    """The error a chunk of a stream carries. Its status is told by a number or by its type."""
    fields = error if isinstance(error, dict) else {"message": error}
    for name in ("status_code", "status", "code"):
        value = fields.get(name)
        if isinstance(value, int) and 400 <= value <= 599:
            return _build(value, fields, retry_after=None, endpoint=endpoint)
    kinds = (fields.get("code"), fields.get("type"))
    status = next(
        (_STATUS_OF_TYPE[kind] for kind in map(_text, kinds) if kind in _STATUS_OF_TYPE), 500
    )
    return _build(status, fields, retry_after=None, endpoint=endpoint)


def _build(
    status: int, error: Any, *, retry_after: str | None, endpoint: Endpoint
) -> UpstreamError:
    fields = error if isinstance(error, dict) else {"message": error}
    # `detail` is FastAPI's word: `transformers serve`, and others that kept its envelope.
    told = _text(fields.get("message") or fields.get("detail"))
    message = redact(told, endpoint)[:MAX_MESSAGE]
    code = _word(fields.get("code"), endpoint)
    if status in (401, 402, 403):
        return _with_status(
            UpstreamCredentials("The provider refused the gateway's credential for it."), status
        )
    if status == 429:
        quota = "insufficient_quota" in (code, fields.get("type"))
        return UpstreamRateLimited(
            message or "The provider's rate limit was reached.",
            code=code,
            retryable=not quota,
            retry_after=retry_after,
        )
    if status in (408, 504):
        return _with_status(
            UpstreamTimeout(message or "The provider timed out.", retryable=True), status
        )
    if status in (503, 529):
        overloaded = UpstreamOverloaded(
            message or "The provider is overloaded.", retryable=True, retry_after=retry_after
        )
        return _with_status(overloaded, status)
    if fields.get("type") == "exceed_context_size_error":  # llama.cpp's words
        return UpstreamRejected(
            message, upstream_status=400, code="context_length_exceeded", param="messages"
        )
    if "too large to process" in message and "physical batch size" in message:
        # llama.cpp calls it a 500; asking again would change nothing (measured 2026-11-25).
        return UpstreamRejected(
            message, upstream_status=400, code="context_length_exceeded", param="input"
        )
    if 400 <= status < 500:
        rejected = UpstreamRejected(
            message or f"The provider rejected the request (status {status}).",
            upstream_status=status,
            error_type=_word(fields.get("type"), endpoint),
            code=code or ("model_not_found" if status == 404 else None),
            param=_word(fields.get("param"), endpoint),
        )
        rejected.details = _details(fields.get("details"), endpoint)
        return rejected
    failed = UpstreamFailed(
        message or f"The provider failed (status {status}).",
        retryable=status >= 500,
        retry_after=retry_after,
    )
    return _with_status(failed, status)


def _with_status(error: UpstreamError, status: int) -> UpstreamError:
    error.upstream_status = status
    return error


def _details(details: Any, endpoint: Endpoint) -> dict[str, Any] | None:
    if not isinstance(details, dict):
        return None
    try:
        cleaned: dict[str, Any] = orjson.loads(redact(orjson.dumps(details).decode(), endpoint))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None  # too deep, or what is like a secret stood where only a part can be cut out
    return cleaned


def _text(value: Any) -> str:
    if value is None or isinstance(value, dict | list):
        return ""
    return str(value)


def _word(value: Any, endpoint: Endpoint) -> str | None:
    """A code, a type or a parameter; None for what tells more than that."""
    word = _text(value)
    return word if word and len(word) <= MAX_MESSAGE and redact(word, endpoint) == word else None


def redact(message: str, endpoint: Endpoint) -> str:
    """`message` without our credential, the upstream's address, or what looks like either (M42)."""
    host = urlsplit(endpoint.base_url).netloc
    for secret in (endpoint.api_key, endpoint.base_url, host):
        if secret:
            message = message.replace(secret, "[redacted]")
    return _ADDRESS.sub("[redacted]", _SECRET.sub("[redacted]", message))
