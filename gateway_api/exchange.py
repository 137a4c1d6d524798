"""One inference request and its place in the ledger: opened before the upstream is asked, closed
whatever becomes of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any

from chat.errors import GatewayError
from chat.ids import new_id
from chat.requests import ChatRequest, InferenceRequest
from chat.types import (
    Batch,
    Delta,
    Reply,
    TokenCounts,
    Usage,
    Wire,
    add_usage,
    count_tokens,
    estimate_usage,
)
from events_app.publishing import publish
from gateway_api.tool_runs import ServerTools
from keys.caller import Caller
from keys.limits import Admission
from providers.dispatch import Dispatch
from providers.emulated import Validation
from providers.routing import Plan
from providers.snapshot import Target
from usage.fields import from_picodollars, usd_text
from usage.journal import Journal
from usage.lines import NOTHING_SPENT, Closed, Opened, Progress, Spent
from usage.pricing import UnitPrices, unit_prices

BYTES_PER_TOKEN = 4
"""For estimates, where no upstream counted: English text in the usual vocabularies."""
PROGRESS_EVERY_S = 1.0
MAX_HEADER = 2000
"""Callers choose the names of the fields they are told were dropped."""


@dataclass(slots=True)
class Call:
    """What came in: who asks what, on which wire, since when (`time.perf_counter`)."""

    caller: Caller
    request: InferenceRequest
    request_id: str
    wire: Wire
    endpoint: str
    started: float
    session_id: str = ""
    traceparent: str = ""
    waited_s: float = 0.0
    """Spent before it began on what was no work for it: the turns of others, other requests."""


def estimate_prompt(request: InferenceRequest) -> int:
    return max(1, request.size // BYTES_PER_TOKEN)


@dataclass(slots=True)
class Exchange:
    """A context manager around the risky part: entering writes the journal's opened line, leaving
    the closed one, with the outcome read off the exception that leaves."""

    call: Call
    plan: Plan
    admission: Admission
    dispatch: Dispatch
    journal: Journal
    usage: Usage | None = None
    wasted: Usage | None = None
    """What was counted for answers that were told as failures."""
    finish_reason: str | None = None
    first_token_at: float | None = None
    text_bytes: int = 0
    answered: bool = False
    cost_usd: Decimal | None = None
    closed: Closed | None = None
    """The ledger's line, once it is over."""
    tools: ServerTools | None = None
    """What the gateway runs for this request itself."""
    earlier: Spent | None = None
    """Of the rounds before this one, in a request that runs tools."""
    resting: bool = False
    """Between two rounds: no upstream is asked for anything."""
    _opened: Opened = field(init=False)
    _noted_at: float = 0.0
    _target: Target | None = None

    def __enter__(self) -> Exchange:
        call = self.call
        self._opened = Opened(
            id=new_id(),
            request_id=call.request_id,
            created_at=time.time(),
            key=call.caller.name,
            session_id=call.session_id,
            route=self.plan.route,
            model=self.plan.model,
            wire=call.wire,
            endpoint=call.endpoint,
            stream=call.request.stream,
            prompt_tokens_estimate=estimate_prompt(call.request),
            has_tools=isinstance(call.request, ChatRequest) and call.request.has_tools,
            worker=self.journal.name,
            traceparent=call.traceparent,
        )
        self._note_target()
        self.dispatch.watcher = self
        try:
            self.journal.open(self._opened)
        except BaseException:
            self.admission.settle(0)
            raise
        self._noted_at = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status, code = _outcome(error)
        if isinstance(error, GatewayError):
            self.note_waste(error)
        counts, estimated = self._counts(status)
        self._note_target()
        ended = time.perf_counter()
        closed = self._opened.end(
            status=status,
            counts=counts,
            estimated=estimated,
            attempts=self.dispatch.attempts,
            error_code=code,
            finish_reason=self.finish_reason or "",
            duration_ms=self._milliseconds_until(ended) or 0,
            time_to_first_token_ms=self._milliseconds_until(self.first_token_at),
            overhead_us=self._overhead_us(self.first_token_at or ended),
            upstream_us=round(self.dispatch.waited_s * 1_000_000),
            earlier=self.earlier,
        )
        if closed.cost_picodollars is not None:
            self.cost_usd = from_picodollars(closed.cost_picodollars)
        self.admission.settle(closed.tokens_input + closed.tokens_output)
        self.journal.close(closed)
        self.closed = closed
        self.dispatch.watcher = None  # or request and watcher are a cycle for the collector

    def publish(self, type_: str, fields: dict[str, Any]) -> None:
        """Tells an event of this request."""
        publish(
            type_,
            fields,
            request_id=self.call.request_id,
            key=self.call.caller.name,
            session_id=self.call.session_id,
            provider=self.dispatch.target.provider.name,
            model=self.plan.model,
        )

    def retrying(self, target: Target, *, attempt: int, pause: float, error: GatewayError) -> None:
        told = {"attempt": attempt, "delay_ms": round(pause * 1000), "error_type": _code(error)}
        self.publish("retry_attempted", told)

    def falling_back(self, target: Target, *, to: Target, error: GatewayError) -> None:
        names = {"from_provider": target.provider.name, "to_provider": to.provider.name}
        self.publish("fallback_used", {**names, "reason": _code(error)})

    def refused(self, validation: Validation) -> None:
        told = {"attempt": validation.attempt, "error": validation.error}
        self.publish("validation_failed", told)

    def _note_target(self) -> None:
        """Puts the target in hand, and its prices, on the ledger's line."""
        target = self.dispatch.target
        if target is self._target:
            return
        self._target = target
        self._opened.provider = target.provider.name
        self._opened.upstream_model = target.model
        self._opened.price = _prices_of(target, int(self._opened.created_at))

    def _milliseconds_until(self, moment: float | None) -> int | None:
        return None if moment is None else round((moment - self.call.started) * 1000)

    def _overhead_us(self, answered: float) -> int:
        """What passed until an answer began and was no waiting for upstreams or tools."""
        spent = answered - self.call.started - self._waited_s
        return max(0, round(spent * 1_000_000))

    @property
    def _waited_s(self) -> float:
        return self.call.waited_s + self.dispatch.waited_s

    def note_waste(self, error: GatewayError) -> None:
        """Takes what an answer that came as a failure has used off the failure."""
        used, error.usage = error.usage, None
        if used is not None:
            self.wasted = add_usage(self.wasted, used)

    def end_round(self) -> None:
        """The upstream has answered with calls of tools that the gateway runs: what that cost is
        kept, and the next answer counts from nothing."""
        self._note_target()
        counts, estimated = self._counts("success")
        spent = self.earlier or NOTHING_SPENT
        self.earlier = spent.plus(counts, self._opened.price, estimated=estimated)
        self.usage = self.wasted = None
        self.text_bytes, self.answered, self.resting = 0, False, True
        self._note_progress(time.perf_counter())

    def begin_round(self, request: ChatRequest) -> None:
        """An upstream is asked again, with what the tools said: the one that called them before
        the plan's others, because thoughts it signed are nobody else's (M40)."""
        before = self.dispatch
        others = tuple(each for each in before.plan.targets if each is not before.target)
        plan = replace(before.plan, targets=(before.target, *others))
        self.dispatch = Dispatch(before.snapshot, before.http, plan, request)
        self.dispatch.attempts, self.dispatch.waited_s = before.attempts, before.waited_s
        self.dispatch.watcher = self
        self.resting = False
        self._note_progress(time.perf_counter())

    def read_reply(self, reply: Reply) -> None:
        """Takes note of a whole answer."""
        self.answered = True
        self.usage = reply.usage
        self.finish_reason = reply.finish_reason
        self.text_bytes = reply.text_bytes

    def read_told(self, usage: Usage | None) -> None:
        """Takes note of an answer that was passed on. One that tells no tokens has an unknown
        cost, which is not none (M22)."""
        self.answered = True
        self.usage = usage or Usage()
        if usage is None:
            self._opened.price = None

    def read_batch(self, batch: Batch) -> None:
        """Takes note of chunks on their way to the caller."""
        now = time.perf_counter()
        if self.first_token_at is None:
            self.first_token_at = now
            self.answered = True
        size = 0
        for chunk in batch.chunks:
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in chunk.choices:
                content = choice.delta.content
                size += len(content) if content else _size_without_content(choice.delta)
                if choice.finish_reason is not None:
                    self.finish_reason = choice.finish_reason
        self.text_bytes += size
        if now - self._noted_at > PROGRESS_EVERY_S:
            self._note_progress(now)

    def _note_progress(self, now: float) -> None:
        """What a killed worker's successor bills this stream by."""
        self._noted_at = now
        self._note_target()
        self.journal.progress(
            Progress(
                id=self._opened.id,
                tokens_output_estimate=self.text_bytes // BYTES_PER_TOKEN,
                prompt_tokens_estimate=self._prompt_estimate() if self.earlier else None,
                earlier=self.earlier,
                attempts=self.dispatch.attempts,
                provider=self._opened.provider,
                upstream_model=self._opened.upstream_model,
                price=self._opened.price,
                duration_ms=self._milliseconds_until(now) or 0,
                time_to_first_token_ms=self._milliseconds_until(self.first_token_at),
            )
        )

    def _counts(self, status: str) -> tuple[TokenCounts, bool]:
        """Of this round, and whether estimated: the upstream's own counts, else an estimate of the
        prompt and of what was sent on. An upstream that failed before it answered anything is owed
        nothing."""
        if self.resting:
            return TokenCounts(), False
        used, spent = self.usage, self.dispatch.spent
        if used is None and spent is not None:
            used = self._with_what_came(spent)
        if self.wasted is not None:
            used = add_usage(used, self.wasted)
        if used is not None:
            return count_tokens(used), used.estimated is True
        if status == "error" and not self.answered:
            return TokenCounts(), False
        if self.dispatch.attempts == 0:
            return TokenCounts(), False
        return count_tokens(self._estimate()), True

    def _estimate(self) -> Usage:
        return estimate_usage(self.dispatch.request.size, self.text_bytes)

    def _with_what_came(self, spent: Usage) -> Usage:
        """What answers cost that were thrown away, and what came of another."""
        return add_usage(spent, self._estimate()) if self.answered else spent

    def _prompt_estimate(self) -> int:
        return 0 if self.resting else estimate_prompt(self.dispatch.request)

    def total(self, status: str = "success") -> Spent:
        """The tokens of all rounds, estimated where nobody counted."""
        counts, estimated = self._counts(status)
        return (self.earlier or NOTHING_SPENT).plus(counts, None, estimated=estimated)

    def counts(self) -> TokenCounts:
        """The tokens of an answer that came to its end, estimated where nobody counted."""
        return self.total().counts

    def headers(self) -> list[tuple[str, str]]:
        """What an answer says about how it came to be."""
        target = self.dispatch.target
        spent = time.perf_counter() - self.call.started
        headers = [
            ("x-gateway-provider", target.provider.name),
            ("x-gateway-model", ascii_header(target.model)),
            ("x-gateway-attempts", str(self.dispatch.attempts)),
            ("x-gateway-overhead-ms", f"{max(0.0, spent - self._waited_s) * 1000:.2f}"),
            ("openai-processing-ms", str(round(spent * 1000))),
            *self.admission.headers,
        ]
        if self.call.request.dropped:
            dropped = ", ".join(sorted(self.call.request.dropped))
            headers.append(("x-gateway-dropped-params", ascii_header(dropped[:MAX_HEADER])))
        request = self.call.request
        if isinstance(request, ChatRequest) and request.emulated:
            emulated = ", ".join(sorted(request.emulated))
            headers.append(("x-gateway-emulated", emulated))
        if self.cost_usd is not None:
            headers.append(("x-gateway-cost-usd", usd_text(self.cost_usd) or "0"))
        return headers


_priced: dict[int, tuple[Target, int, UnitPrices | None]] = {}
_MAX_PRICED = 4096


def _prices_of(target: Target, second: int) -> UnitPrices | None:
    """The prices of a target at a second since 1970, looked up once a second."""
    known = _priced.get(id(target))
    if known is not None and known[0] is target and known[1] == second:
        return known[2]
    prices = unit_prices(
        target.facts.prices,
        kind=target.provider.kind,
        base_url=target.provider.base_url,
        model=target.model,
        at=datetime.fromtimestamp(second, UTC),
    )
    if len(_priced) >= _MAX_PRICED:
        _priced.clear()
    _priced[id(target)] = target, second, prices
    return prices


def _size_without_content(delta: Delta) -> int:
    if delta.reasoning_content:
        return len(delta.reasoning_content)
    calls = delta.tool_calls or ()
    return sum(len(call.function.arguments or "") for call in calls if call.function)


def ascii_header(value: str) -> str:
    """A header value out of a name a caller chose."""
    if value.isascii() and value.isprintable():
        return value
    return value.encode("unicode_escape").decode()


def _outcome(error: BaseException | None) -> tuple[str, str]:
    if error is None:
        return "success", ""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "aborted", ""
    if isinstance(error, GatewayError):
        return "error", _code(error)
    return "error", "internal_error"


def _code(error: GatewayError) -> str:
    return (error.code or error.error_type)[:100]
