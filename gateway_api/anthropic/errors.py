"""Errors in this wire's envelope.

Types by status as in Anthropic's API reference; SDKs choose their exception by the status, agents
and their users read the type.
"""

from __future__ import annotations

from typing import Any

import orjson

from chat.errors import GatewayError
from gateway_api.answers import Answer
from gateway_api.async_view import AsyncAPIView

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    status = error.http_status
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    told: dict[str, Any] = {"type": kind, "message": error.message}
    if error.details is not None:
        told["details"] = error.details
    return {"type": "error", "error": told, "request_id": request_id}


class AnthropicView(AsyncAPIView):
    """A view on this wire: its errors, and the header its SDKs read the request's id from."""

    @property
    def request_id(self) -> str:
        request: Any = self.request
        return str(getattr(request, "request_id", ""))  # the stock handler gives it none

    def explain(self, error: GatewayError) -> Answer:
        answer = super().explain(error)
        answer.body = orjson.dumps(error_body(error, self.request_id))
        answer.headers.append((b"request-id", self.request_id.encode("latin-1")))
        return answer
