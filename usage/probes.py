"""The requests of a capability probe in the ledger: they cost what any request costs."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from django.db import Error

from chat.ids import new_id
from chat.types import TokenCounts, count_tokens
from providers.probe import Asked
from providers.snapshot import Target
from usage import insertion
from usage.lines import Closed, Opened
from usage.pricing import unit_prices

logger = logging.getLogger(__name__)

ENDPOINT = "probe"
BYTES_PER_TOKEN = 4


def record(target: Target, asked: Iterable[Asked], *, key: str) -> None:
    """Writes a probe's requests down after it, as `key`'s, under one request id.

    Straight into the database: a command has no journal, and an administrator waits for the answer.
    A gateway killed in the middle of a probe leaves no rows of it.
    """
    request_id = f"probe-{uuid.uuid4().hex}"
    lines = [_closed(target, each, request_id, key) for each in asked]
    try:
        insertion.record(lines)
    except Error as error:
        logger.error("The requests of a probe of %s are not in the ledger: %s", key, error)


def _closed(target: Target, asked: Asked, request_id: str, key: str) -> Closed:
    opened = Opened(
        id=new_id(),
        request_id=request_id,
        created_at=asked.started_at,
        key=key,
        model=target.public_name,
        provider=target.provider.name,
        upstream_model=target.model,
        wire="openai",
        endpoint=ENDPOINT,
        stream=asked.stream,
        price=unit_prices(
            target.facts.prices,
            kind=target.provider.kind,
            base_url=target.provider.base_url,
            model=target.model,
            at=datetime.fromtimestamp(asked.started_at, UTC),
        ),
    )
    counts, estimated = _counts(asked)
    code = (asked.error.code or asked.error.error_type)[:100] if asked.error else ""
    return opened.end(
        status="success" if asked.answered else "error" if asked.error else "aborted",
        counts=counts,
        estimated=estimated,
        error_code=code,
        duration_ms=asked.duration_ms,
    )


def _counts(asked: Asked) -> tuple[TokenCounts, bool]:
    """The upstream's own, else an estimate of the prompt; a failure without an answer is owed
    nothing."""
    if asked.usage is not None:
        return count_tokens(asked.usage), False
    if asked.error is not None:
        return TokenCounts(), False
    return TokenCounts(input=asked.size // BYTES_PER_TOKEN), True
