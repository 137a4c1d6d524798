"""Spans of requests, as a collector gets them by OTLP over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway_site.tracing import start_tracing
from tests.conftest import spare_database
from tests.gateway import Gateway, configuration, wait_until
from tests.upstream import Asked, Peer, Upstream, completion, scripted_upstream, whole
from tests.usage.requests import closed, opened

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
BODY = {"model": "smart", "messages": [{"role": "user", "content": "the secret prompt"}]}

pytestmark = pytest.mark.once


async def answer(asked: Asked, peer: Peer) -> None:
    fails = b"fail" in asked.body
    await whole(503 if fails else 200, completion(), retry_after="0")(asked, peer)


async def collect(asked: Asked, peer: Peer) -> None:
    peer.answer(200, b"", content_type="application/x-protobuf")


@pytest.fixture(scope="module")
def collector() -> Iterator[Upstream]:
    with scripted_upstream(collect) as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("traced")
    with scripted_upstream(answer) as upstream, spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        gateway.apply(configuration(upstream.base_url, max_retries=1))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def spans(collector: Upstream) -> list[Any]:
    requests = [ExportTraceServiceRequest.FromString(asked.body) for asked in collector.asked]
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def span_of(collector: Upstream, request_id: str) -> Any:
    def found() -> list[Any]:
        return [
            span
            for span in spans(collector)
            if attributes(span).get("abstractcore.request_id") == request_id
        ]

    wait_until(lambda: bool(found()), seconds=15)
    assert len(found()) == 1
    return found()[0]


def test_a_request_is_one_span_under_its_callers(traced: Gateway, collector: Upstream) -> None:
    began = time.time()
    traced.chat(BODY, traceparent=PARENT, x_request_id="traced")
    span = span_of(collector, "traced")
    assert span.name == "chat smart"
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert span.parent_span_id.hex() == PARENT.split("-")[2]
    told = attributes(span)
    assert {name: told[name] for name in told if not name.startswith("abstractcore.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai-compatible",
        "gen_ai.request.model": "smart",
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.response.finish_reasons": told["gen_ai.response.finish_reasons"],
        "server.address": "127.0.0.1",
        "server.port": told["server.port"],
    }
    assert began - 1 < span.start_time_unix_nano / 1e9 <= span.end_time_unix_nano / 1e9
    assert not [asked for asked in collector.asked if b"secret" in asked.body]


def test_attempts_are_spans_within_it_and_failures_are_told(
    traced: Gateway, collector: Upstream
) -> None:
    failing = {**BODY, "messages": [{"role": "user", "content": "fail"}]}
    traced.chat(failing, x_request_id="fails-1")
    span = span_of(collector, "fails-1")
    assert span.status.code == 2
    row = traced.usage_row("fails-1")
    assert attributes(span)["error.type"] == row["error_code"] != ""

    def children() -> list[Any]:
        return [each for each in spans(collector) if each.parent_span_id == span.span_id]

    wait_until(lambda: len(children()) == 2, seconds=10)
    first, second = sorted(children(), key=lambda each: each.start_time_unix_nano)
    assert span.start_time_unix_nano <= first.start_time_unix_nano
    assert first.end_time_unix_nano <= second.start_time_unix_nano + 2_000_000
    assert (first.status.code, second.status.code) == (2, 2)


def test_nonsense_for_a_parent_is_none(traced: Gateway, collector: Upstream) -> None:
    traced.chat(BODY, traceparent="00-xyz", x_request_id="orphan")
    assert not span_of(collector, "orphan").parent_span_id


def test_a_collector_that_is_away_holds_nothing_up(settings: Any, caplog: Any) -> None:
    settings.TRACES_ENDPOINT = "http://127.0.0.1:9/v1/traces"
    traces = start_tracing()
    assert traces is not None
    lines = [closed() for _ in range(3000)]
    began = time.monotonic()
    traces.tell(lines)
    assert time.monotonic() - began < 5
    began = time.monotonic()
    traces.stop()
    assert time.monotonic() - began < 5
    wait_until(lambda: not _senders(), seconds=5)


def _senders() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("Otel")]


def test_lines_without_an_end_are_not_kept(settings: Any) -> None:
    settings.TRACES_ENDPOINT = "http://127.0.0.1:9/v1/traces"
    traces = start_tracing()
    assert traces is not None
    traces.tell([opened(), opened()])
    assert not traces._failed
    traces.stop()


def test_nothing_is_traced_where_no_collector_is_named(settings: Any) -> None:
    assert not settings.TRACES_ENDPOINT
    assert start_tracing() is None
