"""Every failure as an answer in the caller's own wire format."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from django.core.exceptions import DisallowedHost, RequestDataTooBig, SuspiciousOperation
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions as drf

from chat.errors import (
    AuthenticationFailed,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
    StructuredOutputInvalid,
    UnsupportedMediaType,
)
from gateway_api.answers import Answer

logger = logging.getLogger(__name__)


def as_gateway_error(error: BaseException) -> GatewayError:
    """Django's and DRF's failures, and unforeseen ones, as one of ours. What nobody foresaw is
    logged with its traceback and told as nothing but a 500."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, drf.APIException):
        return _from_drf(error)
    if isinstance(error, Http404):
        return NotFound("There is nothing at this address.")
    if isinstance(error, DjangoPermissionDenied):
        return PermissionDenied("You may not do this.")
    if isinstance(error, DisallowedHost):
        return InvalidRequest("The Host header is not one this server answers to.", code="bad_host")
    if isinstance(error, RequestDataTooBig):
        return RequestTooLarge("The request body is too large.")
    if isinstance(error, SuspiciousOperation):
        return InvalidRequest("The request is malformed.")
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("The database is away: %s", error)
        return ServiceUnavailable(
            "The database is away.", code="database_unavailable", retry_after="5"
        )
    logger.error("Unforeseen failure", exc_info=error)
    return GatewayError("The gateway failed.", code="internal_error")


def _from_drf(error: drf.APIException) -> GatewayError:
    detail = str(error.detail)
    if isinstance(error, drf.AuthenticationFailed | drf.NotAuthenticated):
        return AuthenticationFailed(detail)
    if isinstance(error, drf.MethodNotAllowed):
        return MethodNotAllowed(detail)
    if isinstance(error, drf.NotFound):
        return NotFound(detail)
    if isinstance(error, drf.PermissionDenied):
        return PermissionDenied(detail)
    if isinstance(error, drf.UnsupportedMediaType):
        return UnsupportedMediaType(detail)
    if isinstance(error, drf.Throttled):
        return RateLimited(detail, retry_after=str(round(getattr(error, "wait", None) or 1)))
    if error.status_code < 500:
        return InvalidRequest(detail)
    logger.error("Unforeseen failure", exc_info=error)
    return GatewayError("The gateway failed.", code="internal_error")


def openai_body(error: GatewayError) -> dict[str, Any]:
    """OpenAI's envelope; clients of ours outside the three wires get it too."""
    told = {
        "message": error.message,
        "type": error.error_type,
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, StructuredOutputInvalid):
        told |= error.details or {}
    return {"error": told}


def error_headers(error: GatewayError) -> list[tuple[str, str]]:
    """`retry-after` and `x-should-retry` where they say something."""
    headers = []
    retry_after = error.retry_after
    if retry_after is None and error.http_status in (429, 503):
        retry_after = "1"
    if retry_after is not None and retry_after.isprintable():
        headers.append(("retry-after", retry_after))
    if error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    return headers


def error_answer(error: GatewayError) -> Answer:
    return Answer(
        orjson.dumps(openai_body(error)), status=error.http_status, headers=error_headers(error)
    )
