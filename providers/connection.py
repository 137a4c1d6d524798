"""Does a provider answer, and as whom? One attempt through the real adapter; nothing is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson
from django.conf import settings

from chat.errors import GatewayError, NotFound, UpstreamError, UpstreamRejected
from chat.requests import ChatParams, ChatRequest, Message
from providers.adapters.base import ChatAdapter, Endpoint
from providers.http import HttpClient, Timeouts
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.registry import adapter_class
from providers.snapshot import adapter_options

MODELS_SHOWN = 10
MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class ConnectionFailure:
    """`kind`: auth, network, dns, tls, timeout, not_found, rate_limit or protocol. `message` holds
    no secret and no address."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """What one attempt showed. `models` are the first of `model_count`; `response` is the start of
    the answer where a model was asked."""

    provider: str
    model: str | None = None
    latency_ms: int = 0
    models: tuple[str, ...] = ()
    model_count: int = 0
    response: str | None = None
    error: ConnectionFailure | None = None

    @property
    def status(self) -> Literal["success", "error"]:
        return "error" if self.error else "success"


async def test_connection(
    kind: str,
    base_url: str,
    *,
    api_key: str,
    model: str | None = None,
    timeout_s: float = 10.0,
    provider: str = "",
    options: Mapping[str, Any] | None = None,
    policy: OutboundPolicy | None = None,
    models_shown: int = MODELS_SHOWN,
) -> ConnectionReport:
    """Lists the upstream's models and, where one is named, asks it for a token.

    The caller vouches that `api_key` and `options` belong to `base_url` (M43). `policy` says where
    it may lead; by default, where providers may be. Never raises for what the upstream does.
    """
    report = ConnectionReport(provider=provider or kind, model=model or None)
    adapter = adapter_class(kind)
    if adapter is None:
        return _failed(report, "protocol", f"This version cannot speak to the kind {kind}.")
    if adapter.needs_key and not api_key:
        return _failed(report, "auth", "No API key is set.")
    client = HttpClient(
        OutboundGuard(policy or OutboundPolicy.for_providers(settings.OUTBOUND_ALLOW))
    )
    endpoint = Endpoint(
        base_url=base_url,
        api_key=api_key,
        model=model or "",
        timeouts=Timeouts(min(timeout_s, 5.0), timeout_s, timeout_s, timeout_s),
        capabilities=adapter.defaults_at(base_url),
        options=adapter_options(options or {}),
    )
    try:
        return await _try(adapter(endpoint, client), report, timeout_s, models_shown)
    finally:
        await client.aclose()


async def _try(
    adapter: ChatAdapter, report: ConnectionReport, timeout_s: float, models_shown: int
) -> ConnectionReport:
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            report = await _with_models(adapter, report, models_shown)
            if report.model:
                started = time.monotonic()
                report = replace(report, response=await _ask(adapter))
    except TimeoutError:
        report = _failed(report, "timeout", f"No answer within {timeout_s:g} s.")
    except GatewayError as error:
        report = _failed(report, kind_of(error), error.message)
    return replace(report, latency_ms=round((time.monotonic() - started) * 1000))


async def _with_models(
    adapter: ChatAdapter, report: ConnectionReport, models_shown: int
) -> ConnectionReport:
    try:
        models = await adapter.list_models()
    except (NotFound, UpstreamRejected):
        if report.model:
            return report  # not every server lists its models; the one named decides
        raise
    names = tuple(model.id for model in models)
    return replace(report, models=names[:models_shown], model_count=len(names))


async def _ask(adapter: ChatAdapter) -> str:
    try:
        reply = await adapter.complete(_request("max_tokens", 1))
    except UpstreamRejected as error:
        if error.param != "max_tokens":
            raise
        # OpenAI's reasoning models take the newer name only, and fail when one token is too few.
        reply = await adapter.complete(_request("max_completion_tokens", 16))
    message = orjson.loads(reply.body)["choices"][0]["message"]
    return str(message.get("content") or "")[:MAX_MESSAGE]


def _request(limit: str, tokens: int) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "Say hi."}], limit: tokens}
    params = ChatParams(messages=[Message(role="user", content="Say hi.")])
    return ChatRequest(params=params, body=body, size=len(orjson.dumps(body)))


def kind_of(error: GatewayError) -> str:
    """A failure in one of ConnectionFailure's words."""
    if isinstance(error, UpstreamError):
        return "network" if error.kind == "outbound" else error.kind
    return "not_found" if isinstance(error, NotFound) else "protocol"


def _failed(report: ConnectionReport, kind: str, message: str) -> ConnectionReport:
    return replace(report, error=ConnectionFailure(kind, message[:MAX_MESSAGE]))
