"""`GET /metrics`: Prometheus' formats of what the workers of this data directory have counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from rest_framework.request import Request

from chat.errors import PermissionDenied
from gateway_api.answers import Answer, AnyAnswer
from gateway_api.async_view import AsyncAPIView
from gateway_api.openai.schema import ERROR_RESPONSES
from gateway_api.schemas import only
from keys.addresses import is_from
from keys.authentication import identify
from providers import breakers, snapshot
from providers.breaker import State
from usage.gauges import Gauges, read_all
from usage.metering import (
    BOUNDS,
    COUNTERS,
    HISTOGRAMS,
    MAX_MODELS,
    MICRO,
    Family,
    Series,
    is_public,
)
from usage.tally import add_up

PREFIX = "abstractcore_"
_PROCESS = {
    "process_resident_memory_bytes": "Resident memory of a worker.",
    "process_virtual_memory_bytes": "Virtual memory of a worker.",
    "process_open_fds": "Open file descriptors of a worker.",
    "process_max_fds": "Most file descriptors a worker may open.",
    "process_start_time_seconds": "When a worker began, in seconds since 1970.",
}


class MetricsView(AsyncAPIView):
    """The same answer whichever worker of this data directory gives it."""

    open_to_all = True  # an address may be enough; `get` asks
    permission_classes = []

    @extend_schema(
        operation_id="metrics",
        summary="Metrics for Prometheus",
        description="For admin keys, staff, and addresses in `ABSTRACTCORE_METRICS_ALLOW`. "
        "OpenMetrics where `Accept` says so.",
        responses={
            (200, "text/plain"): OpenApiResponse(str, description="Prometheus' text format."),
            **only(ERROR_RESPONSES, 401),
        },
        tags=["Operations"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        http_request = request._request
        if not is_from(http_request, settings.METRICS_ALLOW):
            caller = await identify(http_request)
            if not caller.is_admin:
                raise PermissionDenied("Metrics are for admin keys.", code="admin_required")
        encode, content_type = choose_encoder(http_request.headers.get("accept", ""))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Counts(settings.DATA_DIR))
        body = await asyncio.to_thread(encode, registry)
        return Answer(body, content_type=content_type, headers=[("cache-control", "no-store")])


class _Counts(Collector):
    """One look at a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._metrics = data_dir / "metrics"
        self._journal = data_dir / "journal"

    def collect(self) -> Iterable[Metric]:
        series = add_up(self._metrics)
        workers = read_all(self._metrics)
        build = GaugeMetricFamily(f"{PREFIX}build_info", "1, by version.", labels=["version"])
        build.add_metric([settings.VERSION], 1)
        yield build
        for family in COUNTERS:
            yield _counter(family, series)
        for family in HISTOGRAMS:
            yield _histogram(family, series)
        yield from _gauges(workers)
        yield _local_models(workers)
        yield _breakers()
        yield GaugeMetricFamily(
            f"{PREFIX}journal_bytes",
            "Journal files on this machine, those of dead workers too.",
            value=sum(_sizes(self._journal)),
        )
        yield from _processes(workers)


def _counter(family: Family, series: Series) -> Metric:
    metric = CounterMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
    counts = series.counters.get(family.name, {})
    if not family.labels and not counts:
        counts = {(): 0}
    for labels, count in sorted(counts.items()):
        metric.add_metric(labels, count / family.unit if family.unit > 1 else count)
    return metric


def _histogram(family: Family, series: Series) -> Metric:
    metric = HistogramMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
    bounds = [*(f"{bound / MICRO:g}" for bound in BOUNDS[family.name]), "+Inf"]
    for labels, (*buckets, total) in sorted(series.histograms.get(family.name, {}).items()):
        cumulated = list(zip(bounds, accumulate(map(float, buckets)), strict=True))
        metric.add_metric(labels, cumulated, total / family.unit)
    return metric


def _gauges(workers: Iterable[Gauges]) -> Iterator[Metric]:
    workers = list(workers)
    for name, help_, value in (
        ("workers", "Workers on this machine.", len(workers)),
        ("in_flight_requests", "Requests under way.", sum(each.in_flight for each in workers)),
        (
            "usage_queue_depth",
            "Requests that ended and are not in the database yet.",
            sum(each.queue_depth for each in workers),
        ),
        (
            "usage_queue_behind_seconds",
            "For how long a journal has not been recorded whole; of the worker behind most.",
            max((each.queue_behind_s for each in workers), default=0),
        ),
        (
            "config_revision",
            "The configuration's revision in force; of the worker behind most.",
            min((each.config_revision for each in workers), default=0),
        ),
    ):
        yield GaugeMetricFamily(PREFIX + name, help_, value=value)


def _local_models(workers: Collection[Gauges]) -> Metric:
    metric = GaugeMetricFamily(
        f"{PREFIX}local_model_requests",
        "Requests that a model of this machine answers or that wait for it.",
        labels=["model"],
    )
    under_way = sum((Counter(each.local_requests) for each in workers), Counter[str]())
    for model in sorted({name for each in workers for name in each.local_requests}):
        metric.add_metric([model], under_way[model])
    return metric


_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


def _breakers() -> Metric:
    """Of what is configured, as this worker knows them: the database may be away."""
    metric = GaugeMetricFamily(
        f"{PREFIX}circuit_breaker_state",
        "0 closed, 1 half open, 2 open.",
        labels=["provider", "model"],
    )
    known = {each.key: each.standing.state for each in breakers.all_known()}
    configured = snapshot.current().deployments
    listed = [key for key in known if key not in configured and is_public("/".join(key))]
    for key in (*configured, *listed[:MAX_MODELS]):
        metric.add_metric(key, _STATES[known.get(key, State.CLOSED)])
    return metric


def _processes(workers: Iterable[Gauges]) -> Iterator[Metric]:
    workers = list(workers)
    for name, help_ in _PROCESS.items():
        metric = GaugeMetricFamily(name, help_, labels=["worker"])
        for each in workers:
            if name in each.process:
                metric.add_metric([str(each.pid)], each.process[name])
        yield metric
    seconds = CounterMetricFamily("process_cpu_seconds", "CPU time of a worker.", labels=["worker"])
    for each in workers:
        if "process_cpu_seconds_total" in each.process:
            seconds.add_metric([str(each.pid)], each.process["process_cpu_seconds_total"])
    yield seconds


def _sizes(directory: Path) -> Iterator[int]:
    for path in directory.glob("*.jsonl"):
        try:
            yield path.stat().st_size
        except FileNotFoundError:
            continue  # recorded and gone since the listing
