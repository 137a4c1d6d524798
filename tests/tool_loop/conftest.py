from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from tests.tool_loop.stage import Stage
from tests.upstream import Upstream, scripted_upstream, silence
from usage.journal import Journal


@pytest.fixture(scope="module")
def _scripted() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture
async def stage(_scripted: Upstream, tmp_path: Path) -> AsyncIterator[Stage]:
    _scripted.script, _scripted.asked = silence, []
    journal = Journal(tmp_path, "worker", 1 << 30)
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    yield Stage(client, journal, _scripted)
    await client.aclose()
    journal.shut()
