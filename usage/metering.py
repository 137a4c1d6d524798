"""What a worker counts of its requests for Prometheus: numbers that add up over workers.

Counted off the lines of the journal, by the recorder, so that a request pays nothing for it and
the numbers are the ledger's. All are integers: sums of them are exact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Struct

from events_app.lines import EventLine
from providers import listings, snapshot
from usage.lines import Closed, Line
from usage.models import FAILURES

OTHER = "other"
MAX_MODELS = 500
MAX_PROVIDERS = 200
"""Names that become labels; what comes after them is OTHER (M44)."""

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric without its prefix. What is counted is divided by `unit` when it is shown."""

    name: str
    help: str
    labels: Labels = ()
    unit: int = 1


REQUESTS = Family(
    "requests",
    "Requests in the ledger, by how they ended.",
    ("wire", "endpoint", "provider", "model", "status"),
)
TOKENS = Family(
    "tokens",
    "Tokens billed; cached and cache_write are part of input, reasoning of output.",
    ("provider", "model", "kind"),
)
COST = Family("cost_usd", "US dollars, of priced requests.", ("provider", "model"), 10**12)
UNPRICED = Family("unpriced_requests", "Requests whose price is unknown.", ("provider", "model"))
ATTEMPTS = Family("upstream_attempts", "Attempts at upstreams.", ("provider", "model"))
RETRIES = Family("retries", "Attempts that were followed by one at the same target.", ("provider",))
FALLBACKS = Family("fallbacks", "Targets given up for the next.", ("from_provider", "to_provider"))
TOOL_RUNS = Family("tool_runs", "Tools run by the gateway.", ("success",))
EVENTS = Family("events", "Events published.", ("type",))
REFUSALS = Family("rate_limit_refusals", "Requests refused by a limit of their key.")
AUTH_FAILURES = Family("auth_failures", "Requests whose credential was missing or not valid.")
COUNTERS = (
    *(REQUESTS, TOKENS, COST, UNPRICED, ATTEMPTS, RETRIES, FALLBACKS, TOOL_RUNS, EVENTS),
    *(REFUSALS, AUTH_FAILURES),
)

MICRO = 1_000_000
OVERHEAD = Family(
    "overhead_seconds",
    "What the gateway itself took until an answer, or a stream's first chunk.",
    ("wire",),
    MICRO,
)
UPSTREAM = Family(
    "upstream_seconds",
    "Waited for upstreams until an answer, or a stream's first chunk; over all attempts.",
    ("provider", "model"),
    MICRO,
)
FIRST_TOKEN = Family(
    "time_to_first_token_seconds", "Until a stream's first chunk.", ("provider", "model"), MICRO
)
DURATION = Family("request_seconds", "Whole requests.", ("provider", "model"), MICRO)
HISTOGRAMS = (OVERHEAD, UPSTREAM, FIRST_TOKEN, DURATION)

_SMALL = (100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, MICRO)
_LARGE = (5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000)
_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
BOUNDS: dict[str, tuple[int, ...]] = {
    family.name: _SMALL
    if family is OVERHEAD
    else (*_LARGE, *(second * MICRO for second in _SECONDS))
    for family in HISTOGRAMS
}
"""Upper bounds of the buckets, in microseconds; one more bucket has none."""

_KINDS = ("input", "output", "cached", "cache_write", "reasoning")


class Series(Struct):
    """Counts by family and labels; of a histogram its buckets, each for itself, then the sum."""

    counters: dict[str, dict[Labels, int]] = {}
    histograms: dict[str, dict[Labels, list[int]]] = {}

    def add(self, family: Family, labels: Labels, amount: int = 1) -> None:
        counts = self.counters.setdefault(family.name, {})
        counts[labels] = counts.get(labels, 0) + amount

    def observe(self, family: Family, labels: Labels, microseconds: int) -> None:
        bounds = BOUNDS[family.name]
        buckets = self.histograms.setdefault(family.name, {}).get(labels)
        if buckets is None:
            buckets = self.histograms[family.name][labels] = [0] * (len(bounds) + 2)
        buckets[bisect_left(bounds, microseconds)] += 1
        buckets[-1] += microseconds

    def merge(self, other: Series) -> None:
        for name, counts in other.counters.items():
            mine = self.counters.setdefault(name, {})
            for labels, count in counts.items():
                mine[labels] = mine.get(labels, 0) + count
        for name, histograms in other.histograms.items():
            known = self.histograms.setdefault(name, {})
            for labels, buckets in histograms.items():
                before = known.get(labels) or [0] * len(buckets)
                known[labels] = [sum(pair) for pair in zip(before, buckets, strict=True)]


class Meter:
    """Counts lines into series, under names whose number is bounded."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self._providers = {""}
        self._models = {""}
        self.know(series)

    def know(self, series: Series) -> None:
        """Lets the names of other series be labels here too."""
        for _, _, provider, model, _ in series.counters.get(REQUESTS.name, {}):
            self._providers.add(provider)
            self._models.add(model)

    def count(self, lines: Iterable[Line]) -> None:
        for line in lines:
            match line:
                case Closed():
                    self._count_request(line)
                case EventLine():
                    self._count_event(line)

    def _count_request(self, line: Closed) -> None:
        add = self.series.add
        target = self._provider(line.provider), self._model(line.model)
        add(REQUESTS, (line.wire, line.endpoint, *target, line.status))
        add(ATTEMPTS, target, line.attempts)
        self._count_tokens(line, target)
        if line.cost_picodollars is None:
            add(UNPRICED, target)
        else:
            add(COST, target, line.cost_picodollars)
        add(EVENTS, ("generation_started",))
        add(EVENTS, ("generation_completed",))
        if line.status in FAILURES:
            add(EVENTS, ("error",))
        self._observe(line, target)

    def _count_tokens(self, line: Closed, target: tuple[str, str]) -> None:
        counts = self.series.counters.setdefault(TOKENS.name, {})
        tokens = (
            line.tokens_input,
            line.tokens_output,
            line.tokens_cached,
            line.tokens_cache_write,
            line.tokens_reasoning,
        )
        for kind, number in zip(_KINDS, tokens, strict=True):
            if number:
                labels = (*target, kind)
                counts[labels] = counts.get(labels, 0) + number

    def _observe(self, line: Closed, target: tuple[str, str]) -> None:
        observe = self.series.observe
        observe(DURATION, target, line.duration_ms * 1000)
        if line.overhead_us is not None:
            observe(OVERHEAD, (line.wire,), line.overhead_us)
        if line.upstream_us is not None:
            observe(UPSTREAM, target, line.upstream_us)
        if line.time_to_first_token_ms is not None:
            observe(FIRST_TOKEN, target, line.time_to_first_token_ms * 1000)

    def _count_event(self, line: EventLine) -> None:
        self.series.add(EVENTS, (line.type,))
        match line.type:
            case "retry_attempted":
                self.series.add(RETRIES, (self._provider(line.provider),))
            case "fallback_used":
                names = (line.fields.get("from_provider"), line.fields.get("to_provider"))
                self.series.add(FALLBACKS, tuple(self._provider(str(name)) for name in names))
            case "tool_completed":
                success = "true" if line.fields.get("success") else "false"
                self.series.add(TOOL_RUNS, (success,))

    def _provider(self, name: str) -> str:
        if name in self._providers:
            return name
        if len(self._providers) >= MAX_PROVIDERS:
            return OTHER
        self._providers.add(name)
        return name

    def _model(self, name: str) -> str:
        """The public name where it is one that somebody configured or a provider lists: what else
        callers ask for is theirs to invent."""
        if name in self._models:
            return name
        if len(self._models) >= MAX_MODELS or not is_public(name):
            return OTHER
        self._models.add(name)
        return name


def is_public(name: str) -> bool:
    """Whether somebody configured a name, or a provider lists it."""
    configuration = snapshot.current()
    if name in configuration.routes:
        return True
    provider, _, model = name.partition("/")
    facts = configuration.providers.get(provider)
    if facts is None:
        return False
    return (provider, model) in configuration.deployments or model in listings.models_of(facts)
