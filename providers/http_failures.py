"""What an upstream's connection can die of, as GatewayErrors: made where they are raised."""

from __future__ import annotations

from chat.errors import UpstreamTimeout, UpstreamUnreachable


def unreachable(message: str, *, kind: str = "network", retryable: bool) -> UpstreamUnreachable:
    return UpstreamUnreachable(f"{message}.", kind=kind, retryable=retryable)


def broken() -> UpstreamUnreachable:
    """The connection ended inside the body: part of the answer may have been given away."""
    return unreachable("The connection to the upstream broke", retryable=False)


def hung_up() -> UpstreamUnreachable:
    return unreachable("The upstream hung up before it answered", retryable=True)


def not_http() -> UpstreamUnreachable:
    return unreachable(
        "The upstream does not speak HTTP as expected", kind="protocol", retryable=False
    )


def silent() -> UpstreamTimeout:
    return UpstreamTimeout("The upstream did not answer in time.", retryable=True)


def stalled() -> UpstreamTimeout:
    return UpstreamTimeout("The upstream stopped answering.")
