"""What every test of `providers` stands on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from providers import breakers, discovery
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def nothing_failed() -> Iterator[None]:
    breakers.forget_all()
    yield
    breakers.forget_all()


@pytest.fixture(autouse=True)
def nothing_listed() -> Iterator[None]:
    discovery.forget()
    yield
    discovery.forget()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    yield made
    await made.aclose()
