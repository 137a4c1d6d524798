"""Every failure the gateway tells a caller about, and whether trying again can help.

    GatewayError
    ├── InvalidRequest            400  the caller's request is wrong (names `param`)
    │   ├── UnsupportedMediaType  415
    │   └── RequestTooLarge       413
    ├── AuthenticationFailed      401  our credential is missing, unknown, expired or revoked
    ├── PermissionDenied          403  a good credential without the right
    ├── NotFound                  404
    │   └── ModelNotFound         404  `code: model_not_found`; also for a model the key may not use
    ├── MethodNotAllowed          405
    ├── RequestTimeout            408  the caller's body came too slowly
    ├── Conflict                  409
    ├── ToolChoiceNotMet          422  no call came where the caller demanded one
    ├── StructuredOutputInvalid   422  no answer came in the format the caller asked for
    ├── RateLimited               429  one of the key's own limits
    ├── UnsupportedEndpoint       501
    ├── ServiceUnavailable        503  the gateway itself cannot serve now (database, journal)
    └── UpstreamError                  something between us and the model
        ├── UpstreamRejected      4xx  the upstream found the request wrong; told as it came
        ├── UpstreamRateLimited   429
        ├── UpstreamUnreachable   502  no answer: `kind` is dns, tls, network, outbound or protocol
        ├── UpstreamTimeout       504
        ├── UpstreamCredentials   502  *our* upstream credential is bad; a 401 would have the
        │                              caller rotate a good key
        ├── UpstreamOverloaded    503
        ├── CircuitOpen           503  it was not asked: it has failed too often just now
        ├── UpstreamUnsupported   501  it lacks what this request needs; another may have it
        └── UpstreamFailed        502  a 5xx, or an answer that is no answer

`retryable` is decided where the error is made. Status table: OpenAI and Anthropic SDK behaviour as
measured with openai 3.54.0 and anthropic 2.12.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from chat.types import Usage


class GatewayError(Exception):
    """The root. `message` is shown to callers, so it never holds a secret or an upstream URL."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    lasting: ClassVar[bool] = False
    """Whether the same request would fail again: SDKs try 409 and every 5xx twice more."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retryable: bool = False,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code
        self.param = param
        self.retryable = retryable
        self.retry_after = retry_after
        """Value for the `retry-after` header, in seconds or as an HTTP date, as it came."""
        self.should_retry: bool | None = False if self.lasting else None
        """False where a caller's SDK must not try again: it would multiply our own attempts."""
        self.details: dict[str, Any] | None = None
        """What Anthropic's wire tells beside the message, for its SDK to act on."""
        self.usage: Usage | None = None
        """What the upstream counted for an answer that is told as this failure: it is billed."""

    @property
    def http_status(self) -> int:
        """The HTTP status a caller sees."""
        return self.status

    @property
    def error_type(self) -> str:
        """OpenAI's `type` of this error."""
        return self.type


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    default_code = "unsupported_media_type"


class RequestTooLarge(InvalidRequest):
    status = 413
    default_code = "request_too_large"


class AuthenticationFailed(GatewayError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PermissionDenied(GatewayError):
    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(GatewayError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    default_code = "model_not_found"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeout(GatewayError):
    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class Conflict(GatewayError):
    status = 409
    type = "conflict_error"
    default_code = "conflict"
    lasting = True


class ToolChoiceNotMet(GatewayError):
    status = 422
    type = "invalid_request_error"
    default_code = "tool_choice_not_met"


class StructuredOutputInvalid(GatewayError):
    """`message` says where the answer is wrong; what it says is in `details` alone, which callers
    see and logs and events do not: `validation_errors` (`path`, `message`) and `last_text`."""

    status = 422
    type = "invalid_request_error"
    default_code = "structured_output_invalid"

    def __init__(self, message: str, *, problems: list[dict[str, str]], last_text: str) -> None:
        super().__init__(message)
        self.details = {"validation_errors": problems, "last_text": last_text}


class RateLimited(GatewayError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class UnsupportedEndpoint(GatewayError):
    status = 501
    type = "invalid_request_error"
    default_code = "unsupported_endpoint"
    lasting = True


class ServiceUnavailable(GatewayError):
    status = 503
    type = "server_error"
    default_code = "service_unavailable"


class UpstreamError(GatewayError):
    """A failure of the way to the model. `kind` is one of the words of `/v1/providers/test`:
    auth, network, dns, tls, timeout, not_found, rate_limit, protocol (and outbound: refused by our
    own guard)."""

    status = 502
    type = "upstream_error"
    kind: str = "protocol"
    upstream_status: int | None = None
    """The HTTP status the upstream answered with; None when there was no answer."""
    is_fault: bool = True
    """Whether it speaks against the upstream's health, and so counts for its circuit breaker."""


class UpstreamRejected(UpstreamError):
    """The upstream answered 4xx about the request itself; status, param, code and type are kept."""

    type = "invalid_request_error"
    is_fault = False

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int,
        error_type: str | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.upstream_status = upstream_status
        self._error_type = error_type
        self.kind = "not_found" if upstream_status == 404 else "protocol"

    @property
    def http_status(self) -> int:
        return self.upstream_status or 400

    @property
    def error_type(self) -> str:
        return self._error_type or self.type


class UpstreamRateLimited(UpstreamError):
    status = 429
    type = "rate_limit_error"
    default_code = "upstream_rate_limited"
    kind = "rate_limit"
    upstream_status = 429


class UpstreamUnreachable(UpstreamError):
    """No answer came. `kind`: dns, tls, network, outbound or protocol."""

    default_code = "upstream_unreachable"

    def __init__(self, message: str, *, kind: str, retryable: bool) -> None:
        super().__init__(message, retryable=retryable)
        self.kind = kind
        self.is_fault = kind != "outbound"


class UpstreamTimeout(UpstreamError):
    status = 504
    type = "timeout_error"
    default_code = "upstream_timeout"
    kind = "timeout"


class UpstreamCredentials(UpstreamError):
    default_code = "upstream_credentials"
    lasting = True
    kind = "auth"


class UpstreamOverloaded(UpstreamError):
    status = 503
    default_code = "upstream_overloaded"


class CircuitOpen(UpstreamError):
    status = 503
    default_code = "circuit_open"
    is_fault = False


class UpstreamUnsupported(UpstreamError):
    status = 501
    type = "invalid_request_error"
    default_code = "unsupported_endpoint"
    lasting = True
    kind = "not_found"
    is_fault = False


class UpstreamFailed(UpstreamError):
    default_code = "upstream_failed"
