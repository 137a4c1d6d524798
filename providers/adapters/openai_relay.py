"""Passes a request on to an OpenAI-shaped upstream, and its answer back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import orjson

from chat.errors import GatewayError, UnsupportedEndpoint, UpstreamError, UpstreamFailed
from chat.relays import RelayRequest, Upload
from providers.adapters.base import Endpoint
from providers.adapters.openai_errors import error_from_reply
from providers.adapters.relayed import RelayedReply, begin
from providers.http import HttpClient, HttpReply

_NO_SUCH_ENDPOINT = (404, 405, 501)


async def ask_for_relay(
    request: RelayRequest,
    *,
    body: dict[str, Any] | None,
    base_url: str,
    headers: Mapping[str, str],
    endpoint: Endpoint,
    http: HttpClient,
) -> RelayedReply:
    """The answer whose status is good; `body` is the request's as it goes upstream. Raises
    GatewayError for every other; none of a request that must not be made twice is retryable."""
    url = f"{base_url}{request.path}"
    try:
        if request.upload is not None:
            reply = await _send(request.upload, url, headers, endpoint, http)
        else:
            reply = await http.request(
                request.method,
                url,
                headers=headers,
                body=None if body is None else orjson.dumps(body),
                timeouts=endpoint.timeouts,
            )
        if 200 <= reply.status < 300:
            if _is_page(reply) and request.relay != "files":
                reply.close()
                raise UpstreamFailed("The provider answered with a page for browsers.")
            return await begin(reply, endpoint, any_json=_is_a_file(request))
        raise await _refusal(reply, request, endpoint)
    except GatewayError as error:
        error.retryable = error.retryable and not request.once
        raise


def _is_a_file(request: RelayRequest) -> bool:
    """Whether what comes back is what somebody has uploaded, or a batch has written."""
    return request.relay == "files" and request.path.endswith("/content")


def _is_page(reply: HttpReply) -> bool:
    """A portal or a proxy in between answers so; what people have uploaded may be one."""
    return (reply.headers.get("content-type") or "").strip().lower().startswith("text/html")


async def _send(
    upload: Upload, url: str, headers: Mapping[str, str], endpoint: Endpoint, http: HttpClient
) -> HttpReply:
    model = endpoint.model or None
    async with aclosing(upload.pieces(model)) as pieces:
        return await http.upload(
            "POST",
            url,
            headers={**headers, "content-type": upload.content_type},
            pieces=pieces,
            length=upload.length(model),
            timeouts=endpoint.timeouts,
        )


async def _refusal(reply: HttpReply, request: RelayRequest, endpoint: Endpoint) -> GatewayError:
    try:
        body = await reply.read(limit=1 << 20)
    except UpstreamError:
        body = b""  # the status alone tells enough
    finally:
        reply.close()
    if reply.status in _NO_SUCH_ENDPOINT and not _tells_an_error(body):
        return UnsupportedEndpoint(f"The provider has no {request.relay}.")
    if reply.status < 400:
        return UpstreamFailed(f"The provider answered with status {reply.status}.")
    return error_from_reply(
        reply.status, body, retry_after=reply.headers.get("retry-after"), endpoint=endpoint
    )


def _tells_an_error(body: bytes) -> bool:
    """Whether an API speaks here, rather than a server that knows no such address."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(told, dict) and isinstance(told.get("error"), dict)
