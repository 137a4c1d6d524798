"""Requests of a ledger under test: one opened, one closed, as many as wanted."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from chat.types import TokenCounts
from usage.journal import Journal
from usage.lines import Closed, Opened
from usage.pricing import UnitPrices

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
PRICES = UnitPrices("override:2026-01-01", Decimal("0.15"), Decimal("0.6"), Decimal("0.075"))


def opened(**changes: Any) -> Opened:
    fields: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "request_id": "req-1",
        "created_at": NOON,
        "key": "ci",
        "model": "openai/gpt-4o-mini",
        "provider": "openai",
        "upstream_model": "gpt-4o-mini",
        "wire": "openai",
        "endpoint": "chat.completions",
        "stream": True,
        "price": PRICES,
        "prompt_tokens_estimate": 11,
    }
    return Opened(**(fields | changes))


def closed(*, status: str = "success", counts: TokenCounts | None = None, **changes: Any) -> Closed:
    counts = counts or TokenCounts(input=1000, output=100, cached=400)
    return opened(**changes).end(status=status, counts=counts, finish_reason="stop")


def serve(journal: Journal, number: int = 1, **changes: Any) -> list[str]:
    """Requests opened and closed; their ids."""
    ids = []
    for _ in range(number):
        line = opened(**changes)
        journal.open(line)
        journal.close(line.end(status="success", counts=TokenCounts(input=1000, output=100)))
        ids.append(line.id)
    return ids
