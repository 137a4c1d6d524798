"""One span for each request, sent by OTLP where a collector is named.

Made of the journal's lines in the recorder's thread, with the times they tell: a request waits for
nothing, and a collector that is away costs the spans that its queue has no room for. Names are
those of OpenTelemetry's conventions for generative AI; no prompt and no answer is in a span.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.conf import settings

from events_app.lines import EventLine
from gateway_site import __version__
from providers import snapshot
from usage.fields import from_picodollars
from usage.lines import Closed, Line
from usage.models import FAILURES

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

MAX_WAITING = 2000
"""Requests whose failed attempts are remembered until they end."""
LAST_SECONDS = 3.0

_OPERATIONS = {
    "chat.completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "sessions.chat": "chat",
    "sessions.compact": "chat",
    "generate.structured": "chat",
    "chat": "chat",
    "generate": "text_completion",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "embed": "embeddings",
}


def start_tracing() -> Traces | None:
    """What makes spans in this process; None where none are wanted."""
    if not settings.TRACES_ENDPOINT:
        return None
    # Loaded here: most gateways send none, and it would be 15 MB of each worker.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": "abstractcore-server", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=settings.TRACES_ENDPOINT, timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider, exporter)


class Traces:
    """`tell` is for the recorder's thread."""

    def __init__(self, provider: TracerProvider, exporter: SpanExporter) -> None:
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("abstractcore-server", __version__)
        self._failed: dict[tuple[str, str], list[EventLine]] = {}

    def tell(self, lines: Sequence[Line]) -> None:
        """Makes the spans of the requests that ended. Raises nothing."""
        for line in lines:
            try:
                match line:
                    case Closed():
                        self._make_spans(line)
                    case EventLine(type="retry_attempted" | "fallback_used"):
                        self._remember(line)
            except Exception:  # an edge: the ledger must go on whatever a span cannot say
                logger.exception("A span could not be made.")

    def stop(self) -> None:
        """Sends what waits, for some seconds at most."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)
        if ending.is_alive():
            self._exporter.shutdown()  # what waits is given up

    def _remember(self, line: EventLine) -> None:
        if len(self._failed) >= MAX_WAITING:
            self._failed.clear()
        self._failed.setdefault((line.key, line.request_id), []).append(line)

    def _make_spans(self, line: Closed) -> None:
        failed = self._failed.pop((line.key, line.request_id), [])
        ended = line.created_at + line.duration_ms / 1000
        operation = _OPERATIONS.get(line.endpoint, line.endpoint)
        span = self._tracer.start_span(
            f"{operation} {line.model}",
            context=_parent(line.traceparent),
            kind=_client(),
            attributes=_attributes(line, operation),
            start_time=_nanoseconds(line.created_at),
        )
        if line.status in FAILURES:
            _fail(span, line.error_code or line.status)
        if failed:
            self._make_attempts(span, line, failed, ended)
        span.end(_nanoseconds(ended))

    def _make_attempts(
        self, span: Span, line: Closed, failed: Sequence[EventLine], ended: float
    ) -> None:
        """A span for each attempt, where there were several."""
        from opentelemetry.trace import set_span_in_context

        inside, began = set_span_in_context(span), line.created_at
        for each in failed:
            told = each.fields
            reason = str(told.get("error_type") or told.get("reason") or "")
            named = str(told.get("from_provider") or each.provider)
            self._attempt(inside, named, began, each.at, failure=reason)
            began = each.at + float(told.get("delay_ms") or 0) / 1000
        failure = (line.error_code or line.status) if line.status in FAILURES else ""
        self._attempt(inside, line.provider, began, max(began, ended), failure=failure)

    def _attempt(
        self, inside: Any, provider: str, began: float, ended: float, *, failure: str
    ) -> None:
        attempt = self._tracer.start_span(
            f"attempt {provider}",
            context=inside,
            kind=_client(),
            attributes={"abstractcore.provider": provider},
            start_time=_nanoseconds(began),
        )
        if failure:
            _fail(attempt, failure)
        attempt.end(_nanoseconds(ended))


def _client() -> Any:
    from opentelemetry.trace import SpanKind

    return SpanKind.CLIENT


def _fail(span: Span, reason: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", reason)
    span.set_status(Status(StatusCode.ERROR))


def _parent(traceparent: str) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not traceparent:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def _attributes(line: Closed, operation: str) -> dict[str, Any]:
    provider = snapshot.current().providers.get(line.provider)
    told: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider.kind if provider else line.provider,
        "gen_ai.request.model": line.model,
        "gen_ai.response.model": line.upstream_model,
        "gen_ai.usage.input_tokens": line.tokens_input,
        "gen_ai.usage.output_tokens": line.tokens_output,
        "gen_ai.usage.cache_read.input_tokens": line.tokens_cached,
        "gen_ai.usage.cache_creation.input_tokens": line.tokens_cache_write,
        "abstractcore.request_id": line.request_id,
        "abstractcore.provider": line.provider,
        "abstractcore.wire": line.wire,
        "abstractcore.key": line.key,
        "abstractcore.status": line.status,
        "abstractcore.attempts": line.attempts,
        "abstractcore.stream": line.stream,
    }
    if line.finish_reason:
        told["gen_ai.response.finish_reasons"] = [line.finish_reason]
    if line.session_id:
        told["gen_ai.conversation.id"] = line.session_id
    if line.cost_picodollars is not None:
        told["abstractcore.cost_usd"] = float(from_picodollars(line.cost_picodollars))
    if provider is not None and (address := urlsplit(provider.base_url)).hostname:
        told["server.address"] = address.hostname
        told["server.port"] = address.port or (443 if address.scheme == "https" else 80)
    return told


def _nanoseconds(at: float) -> int:
    return int(at * 1_000_000_000)
