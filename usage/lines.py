"""The lines of a journal: JSON objects told apart by their field `line`."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from chat.types import TokenCounts
from events_app.lines import EventLine, shortened
from usage.fields import to_picodollars
from usage.pricing import UnitPrices, cost

MAX_LINE = 8 * 1024
MAX_TEXT = 300
"""Characters kept of a text in a line that would be longer than MAX_LINE bytes: a caller may ask
for a model whose name fills the body."""


class Request(Struct, kw_only=True, omit_defaults=True, tag_field="line", gc=False):
    """What is known of a request before an upstream is asked. Texts are empty where they do not
    apply; `id` is a UUID's hex and ours, `request_id` may be the caller's own."""

    id: str
    request_id: str
    created_at: float
    """Seconds since 1970."""
    key: str = ""
    session_id: str = ""
    route: str = ""
    model: str
    """The public name asked for."""
    provider: str = ""
    upstream_model: str = ""
    wire: str
    endpoint: str
    stream: bool
    price: UnitPrices | None = None
    worker: str = ""
    traceparent: str = ""
    """The caller's span, as W3C's header names it; not in the ledger."""


class Spent(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a request has cost before the call to an upstream that it is in: one that runs tools
    makes several, each at its own target's prices."""

    counts: TokenCounts
    picodollars: int | None
    """None where the price of any of it is unknown."""
    estimated: bool = False

    def plus(
        self, counts: TokenCounts, price: UnitPrices | None, *, estimated: bool = False
    ) -> Spent:
        """The same and one more call, priced by the size of its own prompt."""
        picodollars = _cost(counts, price)
        if picodollars is not None and self.picodollars is not None:
            picodollars += self.picodollars
        else:
            picodollars = None
        return Spent(_sum(self.counts, counts), picodollars, self.estimated or estimated)


NOTHING_SPENT = Spent(TokenCounts(), 0)


def _cost(counts: TokenCounts, price: UnitPrices | None) -> int | None:
    return to_picodollars(cost(counts, price.for_prompt(counts.input))) if price else None


def _sum(first: TokenCounts, second: TokenCounts) -> TokenCounts:
    pairs = zip(msgspec.structs.astuple(first), msgspec.structs.astuple(second), strict=True)
    return TokenCounts(*(one + other for one, other in pairs))


class Opened(Request, tag="opened", kw_only=True, gc=False):
    """A request about to be sent upstream."""

    prompt_tokens_estimate: int = 0
    has_tools: bool = False

    def end(
        self,
        *,
        status: str,
        counts: TokenCounts,
        estimated: bool = False,
        attempts: int = 1,
        error_code: str = "",
        finish_reason: str = "",
        duration_ms: int = 0,
        time_to_first_token_ms: int | None = None,
        overhead_us: int | None = None,
        upstream_us: int | None = None,
        earlier: Spent | None = None,
    ) -> Closed:
        """The line that closes this one, with the cost of `counts` at the prices of `price` and
        what was spent `earlier`. A fallback's provider, upstream model and price are set on this
        line first."""
        price = self.price.for_prompt(counts.input) if self.price else None
        picodollars = to_picodollars(cost(counts, price)) if price else None
        if earlier is not None:
            spent = earlier.plus(counts, self.price, estimated=estimated)
            counts, picodollars, estimated = spent.counts, spent.picodollars, spent.estimated
        return Closed(
            id=self.id,
            request_id=self.request_id,
            created_at=self.created_at,
            key=self.key,
            session_id=self.session_id,
            route=self.route,
            model=self.model,
            provider=self.provider,
            upstream_model=self.upstream_model,
            wire=self.wire,
            endpoint=self.endpoint,
            stream=self.stream,
            price=price,
            worker=self.worker,
            traceparent=self.traceparent,
            status=status,
            error_code=error_code,
            finish_reason=finish_reason,
            attempts=attempts,
            tokens_input=counts.input,
            tokens_output=counts.output,
            tokens_cached=counts.cached,
            tokens_cache_write=counts.cache_write,
            tokens_reasoning=counts.reasoning,
            estimated=estimated,
            cost_picodollars=picodollars,
            duration_ms=duration_ms,
            time_to_first_token_ms=time_to_first_token_ms,
            overhead_us=overhead_us,
            upstream_us=upstream_us,
        )


class Progress(
    Struct, kw_only=True, omit_defaults=True, tag_field="line", tag="progress", gc=False
):
    """How far a request in flight has come: all that is billed when its worker is killed."""

    id: str
    tokens_output_estimate: int = 0
    prompt_tokens_estimate: int | None = None
    """Of the call it is in, where that is not the request's own prompt: 0 between two calls."""
    earlier: Spent | None = None
    attempts: int = 1
    provider: str = ""
    upstream_model: str = ""
    price: UnitPrices | None = None
    """Of `upstream_model`; read only where `provider` is given."""
    duration_ms: int = 0
    time_to_first_token_ms: int | None = None


class Closed(Request, tag="closed", kw_only=True, gc=False):
    """A request's outcome, with everything its record needs."""

    status: str
    error_code: str = ""
    finish_reason: str = ""
    attempts: int = 0
    tokens_input: int = 0
    tokens_output: int = 0
    tokens_cached: int = 0
    tokens_cache_write: int = 0
    tokens_reasoning: int = 0
    estimated: bool = False
    cost_picodollars: int | None = None
    """None where the price is unknown."""
    duration_ms: int = 0
    time_to_first_token_ms: int | None = None
    overhead_us: int | None = None
    """What the gateway itself took until it answered; with the next, not in the ledger. Both are
    None where the worker was killed."""
    upstream_us: int | None = None
    """Waited for upstreams, until the first good chunk of a stream."""


Line = Opened | Progress | Closed | EventLine

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode(line: Line) -> bytes:
    """The line with its newline, never much longer than MAX_LINE."""
    encoded = _encoder.encode(line)
    if len(encoded) > MAX_LINE:
        encoded = _encoder.encode(_cut(line))
    return encoded + b"\n"


def decode(line: bytes) -> Line:
    """Raises msgspec.DecodeError (a ValueError) for what is not a line."""
    return _decoder.decode(line)


def is_progress(line: bytes) -> bool:
    """Whether an encoded line is a Progress one, without decoding it."""
    return line.startswith(b'{"line":"progress"')


def _cut(line: Line) -> Line:
    if isinstance(line, EventLine):
        return shortened(line)
    texts = {
        name: value[:MAX_TEXT]
        for name in line.__struct_fields__
        if isinstance(value := getattr(line, name), str)
    }
    return msgspec.structs.replace(line, **texts)


def interrupted(opened: Opened, progress: Progress | None) -> Closed:
    """The outcome of a request whose worker is gone: an estimate of what had been sent (M23)."""
    if progress is None:
        return opened.end(status="interrupted", counts=_estimate(opened, None), estimated=True)
    if progress.provider:
        opened = msgspec.structs.replace(
            opened,
            provider=progress.provider,
            upstream_model=progress.upstream_model,
            price=progress.price,
        )
    return opened.end(
        status="interrupted",
        counts=_estimate(opened, progress),
        estimated=True,
        earlier=progress.earlier,
        attempts=progress.attempts,
        duration_ms=progress.duration_ms,
        time_to_first_token_ms=progress.time_to_first_token_ms,
    )


def _estimate(opened: Opened, progress: Progress | None) -> TokenCounts:
    if progress is None:
        return TokenCounts(input=opened.prompt_tokens_estimate)
    prompt = progress.prompt_tokens_estimate
    return TokenCounts(
        input=opened.prompt_tokens_estimate if prompt is None else prompt,
        output=progress.tokens_output_estimate,
    )
