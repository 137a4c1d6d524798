from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from providers.outbound import parse_networks
from tests.upstream import Upstream, scripted_upstream, silence
from tools_app import listings


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def loopback_open(settings: Any) -> None:
    """Tools may be on this machine, as ABSTRACTCORE_OUTBOUND_ALLOW can say."""
    settings.OUTBOUND_ALLOW = parse_networks("127.0.0.0/8")


@pytest.fixture
def place(loopback_open: None) -> Iterator[Upstream]:
    """Where an HTTP tool is: a script says what it does."""
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def _no_listings() -> Iterator[None]:
    listings.forget()
    yield
    listings.forget()
