"""What a request can be answered with instead of a completion."""

from __future__ import annotations


class Refusal(Exception):
    """An error in OpenAI's shape. `message` is shown to the caller of the gateway."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"


class Cancelled(Exception):
    """Raised in the engine's thread at the next token once nobody waits for it any more."""
