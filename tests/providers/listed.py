"""Providers under test, and what they listed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from chat.types import ModelInfo
from providers import listings
from providers.http import Timeouts
from providers.listings import Listing
from providers.snapshot import ProviderFacts


def facts(base_url: str = "http://127.0.0.1:9/v1", **changes: Any) -> ProviderFacts:
    fields: dict[str, Any] = {
        "name": "p",
        "kind": "openai-compatible",
        "enabled": True,
        "base_url": base_url,
        "api_key": "sk-upstream-0123456789",
        "timeouts": Timeouts(),
        "max_retries": 0,
        "options": {},
    }
    return ProviderFacts(**(fields | changes))


def listed(owner: ProviderFacts, *models: ModelInfo, age_s: float = 0.0) -> Listing:
    """An answer of so many seconds ago."""
    at = time.monotonic() - age_s
    return Listing(
        owner=owner,
        models=listings.by_id(models),
        asked_at=at,
        at=at,
        checked_at=datetime.now(UTC),
        latency_ms=1,
    )
