"""Anthropic's failures, by status and in band, as GatewayErrors.

Statuses and types as in Anthropic's errors page and `types/shared/` of its SDK (2.12.0). A credit
balance that is used up comes as a 400; it is the gateway's account, not the caller's request.
"""

from __future__ import annotations

import re

import msgspec

from chat.errors import UpstreamCredentials, UpstreamError, UpstreamRejected
from chat.ndjson import UNREADABLE
from providers.adapters import openai_errors
from providers.adapters.base import Endpoint
from providers.http import HttpReply

_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TOO_LONG = re.compile(r"prompt is too long|exceed[a-z]* (?:the )?context (?:limit|window)")
_NO_CREDIT = re.compile(r"credit balance is too low")


class _Error(msgspec.Struct):
    type: str = ""


class _Told(msgspec.Struct):
    error: _Error


def error_of(reply: HttpReply, body: bytes, endpoint: Endpoint) -> UpstreamError:
    """The error a non-200 reply with this body means."""
    retry_after = reply.headers.get("retry-after")
    return error_from_reply(reply.status, body, retry_after=retry_after, endpoint=endpoint)


def error_from_reply(
    status: int, body: bytes, *, retry_after: str | None, endpoint: Endpoint
) -> UpstreamError:
    """The error an upstream's non-200 answer means."""
    error = openai_errors.error_from_reply(status, body, retry_after=retry_after, endpoint=endpoint)
    if isinstance(error, UpstreamRejected) and error.upstream_status == 400:
        return _told_by_message(error)
    return error


def error_in_band(body: bytes, endpoint: Endpoint) -> UpstreamError:
    """The error an `error` event, or a 200 that holds one, means: its type tells the status."""
    try:
        kind = msgspec.json.decode(body, type=_Told).error.type
    except UNREADABLE:
        kind = ""
    status = _STATUS_OF_TYPE.get(kind, 500)
    return error_from_reply(status, body, retry_after=None, endpoint=endpoint)


def _told_by_message(error: UpstreamRejected) -> UpstreamError:
    """Anthropic has no codes: these two are told apart by their words alone."""
    if _NO_CREDIT.search(error.message):
        refused = UpstreamCredentials("The provider refused the gateway's credential for it.")
        refused.upstream_status = 400
        return refused
    if error.code is None and _TOO_LONG.search(error.message):
        error.code, error.param = "context_length_exceeded", "messages"
    return error
