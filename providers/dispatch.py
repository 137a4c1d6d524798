"""Retries and fallbacks, with one promise: nothing is committed before the first good chunk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar

from tenacity import RetryCallState, wait_random_exponential

from chat.errors import (
    CircuitOpen,
    GatewayError,
    ModelNotFound,
    UnsupportedEndpoint,
    UpstreamError,
    UpstreamFailed,
    UpstreamRejected,
)
from chat.requests import ChatRequest, InferenceRequest
from chat.types import Batch, Reply, Usage, has_substance
from providers import breakers
from providers.adapters.base import ChatAdapter
from providers.breaker import Breaker
from providers.emulated import Emulated, Validation
from providers.emulation.plan import may_need_emulation, plan
from providers.http import HttpClient
from providers.routing import Plan
from providers.snapshot import Snapshot, Target

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 30.0
"""An upstream that asks for a longer pause is not waited for: the fallback or the error is next."""
MAX_HELD_BATCHES = 256
"""Packets without substance held back before the first good chunk."""

_backoff = wait_random_exponential(multiplier=0.25, max=8)
T = TypeVar("T")
Stream = AsyncGenerator[Batch]


class Watcher(Protocol):
    """Is told what becomes of a request's failed attempts."""

    def retrying(self, target: Target, *, attempt: int, pause: float, error: GatewayError) -> None:
        """The same target will be asked again after `pause` seconds; `attempt` failed."""

    def falling_back(self, target: Target, *, to: Target, error: GatewayError) -> None:
        """Another target is next."""

    def refused(self, validation: Validation) -> None:
        """An answer was not what was asked for; nothing of what it says is told."""


@dataclass(slots=True)
class Dispatch:
    """One request on its way to one of a plan's targets. `attempts` and `target` tell how far it
    came, also after a failure; `waited_s` is the time spent waiting for upstreams, with the
    pauses between attempts."""

    snapshot: Snapshot
    http: HttpClient
    plan: Plan
    request: InferenceRequest
    attempts: int = 0
    waited_s: float = 0.0
    watcher: Watcher | None = None
    spent: Usage | None = None
    """What answers cost that were thrown away; an answer that is given includes it."""
    validations: list[Validation] = field(default_factory=list)
    target: Target = field(init=False)
    _emulated: Emulated | None = None

    def __post_init__(self) -> None:
        self.target = self.plan.targets[0]

    async def complete(self) -> Reply:
        """The whole chat completion of the first target that gives one. Raises GatewayError."""
        chat = self._chat()
        if may_need_emulation(chat):
            return await self.answer(lambda adapter: self._asking(adapter, chat).complete())
        return await self.answer(lambda adapter: adapter.complete(chat))

    async def count_tokens(self) -> Reply | None:
        """The count of a prompt on Anthropic's wire by the first target that answers; None where it
        does not count. Raises GatewayError."""
        chat = self._chat()
        body, headers = chat.native or {}, chat.native_headers
        return await self.answer(lambda adapter: adapter.count_tokens(body, headers))

    async def count_prompt(self) -> int | None:
        """The tokens of a chat's prompt as the first target counts them, with what emulations add;
        None where it does not count. Asked once: who wants it can do without. Raises GatewayError.
        """
        chat = self._chat()
        adapter = self.snapshot.adapter(self.target, self.http)
        if may_need_emulation(chat):
            chat = self._asking(adapter, chat).prepared
        return await adapter.count_prompt(chat)

    def stream(self) -> Stream:
        """The chat completion as it comes, see `batches`."""
        chat = self._chat()
        if may_need_emulation(chat):
            return self.batches(lambda adapter: self._asking(adapter, chat).stream())
        return self.batches(lambda adapter: adapter.stream(chat))

    def refuse(self, validation: Validation) -> None:
        """Takes note of an answer that an emulation would not take."""
        self.validations.append(validation)
        if self.watcher is not None:
            self.watcher.refused(validation)

    def _asking(self, adapter: ChatAdapter, chat: ChatRequest) -> Emulated:
        """The request with what this adapter's model needs of emulations, which may be none; the
        same through all tries."""
        if self._emulated is None or self._emulated.adapter is not adapter:
            capabilities = adapter.capabilities_for(chat)
            emulations = plan(chat, capabilities, model=adapter.endpoint.model)
            self._emulated = Emulated(adapter, emulations, chat, self)
        return self._emulated

    def _chat(self) -> ChatRequest:
        assert isinstance(self.request, ChatRequest), "what is no chat says how it is asked"
        return self.request

    async def batches(self, start: Callable[[ChatAdapter], Stream]) -> Stream:
        """The chunks of the first target that begins an answer: the first batch comes when there
        is something to show, and from then on a failure is the stream's."""
        held, stream = await self.answer(lambda adapter: _open(start(adapter)))
        try:
            for batch in held:
                yield batch
            async for batch in stream:
                yield batch
        except GatewayError as error:
            breakers.failed(breakers.of(self.target), error, on_trial=False)
            raise
        finally:
            await stream.aclose()

    async def answer(self, ask: Callable[[ChatAdapter], Awaitable[T]]) -> T:
        """What `ask` gets of the first target that answers it. Raises GatewayError."""
        failure: GatewayError | None = None
        told = _told(self.request) if len(self.plan.targets) > 1 else ()
        for target in self.plan.targets:
            if failure is not None and self.watcher is not None:
                self.watcher.falling_back(self.target, to=target, error=failure)
            self.target = target
            for names, before in told:  # what another target left out is not this one's doing
                names.intersection_update(before)
            try:
                return await self._ask_unless_open(target, ask)
            except GatewayError as error:
                if failure is None or not isinstance(error, UnsupportedEndpoint | CircuitOpen):
                    failure = error  # who was not really asked does not hide why another failed
                if not may_fall_back(error):
                    break
        assert failure is not None, "a plan has at least one target"
        if failure.retryable and failure.http_status >= 500:
            failure.should_retry = False
        raise failure

    async def _ask_unless_open(
        self, target: Target, ask: Callable[[ChatAdapter], Awaitable[T]]
    ) -> T:
        """One call through the target's circuit breaker: what retries make good is no failure."""
        breaker = breakers.of(target)
        on_trial = not breaker.is_closed and await breakers.admit(breaker)
        try:
            answer = await self._ask_with_retries(target, ask, breaker)
        except GatewayError as error:
            breakers.failed(breaker, error, on_trial=on_trial)
            raise
        except BaseException:
            if on_trial:  # and its caller has left: nobody knows
                breakers.abandoned(breaker)
            raise
        breakers.succeeded(breaker, on_trial=on_trial)
        return answer

    async def _ask_with_retries(
        self, target: Target, ask: Callable[[ChatAdapter], Awaitable[T]], breaker: Breaker
    ) -> T:
        adapter = self.snapshot.adapter(target, self.http)
        for retry in range(target.provider.max_retries + 1):
            self.attempts += 1
            started = time.perf_counter()
            try:
                return await ask(adapter)
            except GatewayError as error:
                pause = pause_before_retry(error, retry)
                is_last = retry == target.provider.max_retries or not breaker.is_closed
                if pause is None or is_last:
                    raise
                logger.info(
                    "Attempt %s at %s failed: %s", self.attempts, target.public_name, error.message
                )
                if self.watcher is not None:
                    attempt = self.attempts
                    self.watcher.retrying(target, attempt=attempt, pause=pause, error=error)
            finally:
                self.waited_s += time.perf_counter() - started
            await asyncio.sleep(pause)
            self.waited_s += pause
        raise AssertionError("unreachable: the last attempt returns or raises")


async def _open(stream: Stream) -> tuple[list[Batch], Stream]:
    """Reads on until a chunk has substance: what came before it is held back, because a failure
    now can still be told by its status or made good elsewhere (M25)."""
    held: list[Batch] = []
    try:
        async for batch in stream:
            held.append(batch)
            if any(map(has_substance, batch.chunks)) or len(held) >= MAX_HELD_BATCHES:
                return held, stream
    except BaseException:
        # Cancelled too: the response below is closed now, not when the collector comes by.
        with contextlib.suppress(GatewayError):
            await stream.aclose()
        raise
    if not held:
        raise UpstreamFailed("The provider's stream was empty.", retryable=True)
    return held, stream


def _told(request: InferenceRequest) -> list[tuple[set[str], frozenset[str]]]:
    """The sets that adapters and emulations put names in, each with those that are in it now."""
    names = [request.dropped]
    if isinstance(request, ChatRequest):
        names.append(request.emulated)
    return [(each, frozenset(each)) for each in names]


def may_fall_back(error: GatewayError) -> bool:
    """Whether another target may do better: not with a request that is itself wrong."""
    if isinstance(error, UpstreamRejected):
        return error.upstream_status == 404
    return isinstance(error, UpstreamError | ModelNotFound | UnsupportedEndpoint)


def pause_before_retry(error: GatewayError, retry: int) -> float | None:
    """Seconds to wait before asking the same target again, or None for not at all."""
    if not error.retryable:
        return None
    asked = seconds_asked_for(error.retry_after)
    if asked is not None:
        return asked if asked <= MAX_RETRY_AFTER_S else None
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = retry + 1
    return float(_backoff(state))


def seconds_asked_for(retry_after: str | None) -> float | None:
    """A `retry-after` value, in seconds or as a date; None when absent or unreadable."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
