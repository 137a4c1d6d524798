"""The story of a request, from its model's name to its ledger line. Every wire tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Protocol

from chat.errors import GatewayError, InvalidRequest, RateLimited, ServiceUnavailable
from chat.requests import ChatRequest
from chat.types import Batch, Reply
from gateway_api import tool_loop
from gateway_api.exchange import Call, Exchange, estimate_prompt
from gateway_api.refusals import tell_refusal
from gateway_api.server_tools import server_tools
from keys.limits import admit
from providers import snapshot
from providers.adapters.base import ChatAdapter
from providers.dispatch import Dispatch
from providers.emulation.schema import LARGE_BYTES, schema_of
from providers.emulation.strategies import SCHEMA_PARAM, schema_asked, wants_schema
from providers.http import HttpClient
from providers.routing import Plan, find_plan, speaking
from providers.snapshot import Snapshot
from usage.journal import Journal

Narrow = Callable[[Plan], Plan]
"""What leaves targets of a plan out; raises GatewayError when none is left."""


async def begin(
    call: Call, *, http: HttpClient, journal: Journal, narrow: Narrow | None = None
) -> Exchange:
    """Finds who may serve the call and admits it. Raises InvalidRequest, ModelNotFound,
    RateLimited and ServiceUnavailable; no upstream was asked, and the ledger knows nothing."""
    tools = None
    if isinstance(call.request, ChatRequest):
        await _judge_schema(call.request)
        if call.request.server_rounds:
            tools = await server_tools(call)
    exchange = admitted(call, await _find_upstreams(call, http, narrow), journal=journal)
    exchange.tools = tools
    return exchange


async def _judge_schema(request: ChatRequest) -> None:
    """Has a large schema judged in a thread, so that the requests of others come in between (M5).
    The verdict is remembered for who needs it."""
    if request.size > LARGE_BYTES and wants_schema(request.params):
        with suppress(InvalidRequest):  # where it matters it is told
            await asyncio.to_thread(schema_of, schema_asked(request.params), param=SCHEMA_PARAM)


def admitted(call: Call, dispatch: Dispatch, *, journal: Journal) -> Exchange:
    """The call, counted against its key's limits and ready to be made. Raises RateLimited."""
    most_output = max(0, call.request.max_output_tokens or 0)
    try:
        admission = admit(call.caller, tokens=estimate_prompt(call.request) + most_output)
    except RateLimited as error:
        tell_refusal(call, dispatch.plan.model, error)
        raise
    return Exchange(call, dispatch.plan, admission, dispatch, journal)


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


async def _find_upstreams(call: Call, http: HttpClient, narrow: Narrow | None = None) -> Dispatch:
    configuration = configuration_in_force()
    caller, request = call.caller, call.request
    plan = await find_plan(configuration, request.model, may_use=caller.may_use, http=http)
    if narrow is not None:
        plan = narrow(plan)
    elif isinstance(request, ChatRequest) and request.native_only is not None:
        plan = _native_part(plan, request, otherwise=request.native_only)
    return Dispatch(configuration, http, plan, request)


def _native_part(plan: Plan, request: ChatRequest, *, otherwise: GatewayError) -> Plan:
    native = speaking(plan, request.wire)
    if native is None or (request.native_throughout and native.targets != plan.targets):
        raise otherwise
    return native


async def count_tokens(
    call: Call, *, http: HttpClient, journal: Journal
) -> tuple[Reply | None, Exchange]:
    """The count of a prompt by its upstream, None where that does not count, and the exchange that
    told it. Raises GatewayError. Nothing is inferred, so the ledger knows nothing; the key's limit
    of requests does."""
    dispatch = await _find_upstreams(call, http)
    exchange = Exchange(call, dispatch.plan, admit(call.caller, tokens=0), dispatch, journal)
    try:
        return await dispatch.count_tokens(), exchange
    finally:
        exchange.admission.settle(0)


async def complete(exchange: Exchange, encode: Callable[[Reply], bytes] | None = None) -> Reply:
    """The whole answer, its body as `encode` writes it on the caller's wire. Raises GatewayError;
    one of `encode` is the request's failure too, and the answer is billed. The ledger's line is
    closed when this returns."""
    with exchange:
        if exchange.tools is not None:
            reply = await tool_loop.complete(exchange, exchange.tools)
        else:
            reply = await exchange.dispatch.complete()
            exchange.read_reply(reply)
        if encode is not None:
            reply.body = encode(reply)
    return reply


async def answer(exchange: Exchange, ask: Callable[[ChatAdapter], Awaitable[Reply]]) -> Reply:
    """`complete` for what is no chat: `ask` says what is wanted of an adapter."""

    async def ask_and_note(adapter: ChatAdapter) -> Reply:
        try:
            return await ask(adapter)
        except GatewayError as error:
            exchange.note_waste(error)  # of an attempt that others may follow
            raise

    with exchange:
        reply = await exchange.dispatch.answer(ask_and_note)
        exchange.read_reply(reply)
    return reply


async def stream(exchange: Exchange) -> AsyncGenerator[Batch]:
    """The answer as it comes. The first batch comes when an upstream is known to answer; the
    ledger's line is closed before this ends, also when the caller leaves or the upstream fails."""
    with exchange:
        source, read = _source(exchange)
        async with aclosing(source) as found:
            async for batch in found:
                read(batch)
                yield batch


def _source(exchange: Exchange) -> tuple[AsyncGenerator[Batch], Callable[[Batch], None]]:
    """The batches of the answer, and what takes note of them: a loop over tools has done so."""
    if exchange.tools is None:
        return exchange.dispatch.stream(), exchange.read_batch
    return tool_loop.stream(exchange, exchange.tools), _already_read


def _already_read(batch: Batch) -> None:
    """Nothing."""


class Encoder(Protocol):
    """Writes one answer on a wire. Raises UpstreamFailed for one that cannot be said there."""

    def encode(self, batch: Batch) -> bytes: ...

    def end(self) -> bytes: ...


async def encoded(exchange: Exchange, encoder: Encoder) -> AsyncGenerator[bytes]:
    """`stream` as `encoder` writes it, whose refusals are the request's failure too."""
    with exchange:
        source, read = _source(exchange)
        async with aclosing(source) as found:
            async for batch in found:
                read(batch)
                if piece := encoder.encode(batch):
                    yield piece
        last = encoder.end()
    if last:
        yield last


async def batches(
    exchange: Exchange, start: Callable[[ChatAdapter], AsyncGenerator[Batch]]
) -> AsyncGenerator[Batch]:
    """`stream` for what is no chat: `start` says what is wanted of an adapter."""
    with exchange:
        async with aclosing(exchange.dispatch.batches(start)) as found:
            async for batch in found:
                exchange.read_batch(batch)
                yield batch
