"""The story of a request, from its model's name to its ledger line. Every wire tells it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from chat.errors import ServiceUnavailable
from chat.types import Batch, Reply
from gateway_api.exchange import Call, Exchange, estimate_prompt
from keys.limits import admit
from providers import snapshot
from providers.adapters.base import ChatAdapter
from providers.dispatch import Dispatch
from providers.http import HttpClient
from providers.routing import Plan, find_plan
from providers.snapshot import Snapshot
from usage.journal import Journal


async def begin(call: Call, *, http: HttpClient, journal: Journal) -> Exchange:
    """Finds who may serve the call and admits it. Raises InvalidRequest, ModelNotFound,
    RateLimited and ServiceUnavailable; no upstream was asked, and the ledger knows nothing."""
    configuration = configuration_in_force()
    may_use = call.caller.may_use
    plan = await find_plan(configuration, call.request.model, may_use=may_use, http=http)
    return admitted(call, plan, configuration, http=http, journal=journal)


def configuration_in_force() -> Snapshot:
    """Raises ServiceUnavailable where none has been read."""
    configuration = snapshot.current()
    if configuration is snapshot.EMPTY:
        raise ServiceUnavailable(
            "The gateway has not read its configuration yet: the database is away.",
            code="database_unavailable",
            retry_after="5",
        )
    return configuration


def admitted(
    call: Call, plan: Plan, configuration: Snapshot, *, http: HttpClient, journal: Journal
) -> Exchange:
    """The call, counted against its key's limits and ready to be made. Raises RateLimited."""
    request = call.request
    most_output = max(0, request.max_output_tokens or 0)
    admission = admit(call.caller, tokens=estimate_prompt(request) + most_output)
    dispatch = Dispatch(configuration, http, plan, request)
    return Exchange(call, plan, admission, dispatch, journal)


async def complete(exchange: Exchange) -> Reply:
    """The whole answer. Raises GatewayError. The ledger's line is closed when this returns."""
    with exchange:
        reply = await exchange.dispatch.complete()
        exchange.read_reply(reply)
    return reply


async def answer(exchange: Exchange, ask: Callable[[ChatAdapter], Awaitable[Reply]]) -> Reply:
    """`complete` for what is no chat: `ask` says what is wanted of an adapter."""
    with exchange:
        reply = await exchange.dispatch.answer(ask)
        exchange.read_reply(reply)
    return reply


async def stream(exchange: Exchange) -> AsyncGenerator[Batch]:
    """The answer as it comes. The first batch comes when an upstream is known to answer; the
    ledger's line is closed before this ends, also when the caller leaves or the upstream fails."""
    with exchange:
        async for batch in exchange.dispatch.stream():
            exchange.read_batch(batch)
            yield batch


async def batches(
    exchange: Exchange, start: Callable[[ChatAdapter], AsyncGenerator[Batch]]
) -> AsyncGenerator[Batch]:
    """`stream` for what is no chat: `start` says what is wanted of an adapter."""
    with exchange:
        async with aclosing(exchange.dispatch.batches(start)) as found:
            async for batch in found:
                exchange.read_batch(batch)
                yield batch
