"""The stages every test of the contract runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from tests.contract.kinds import SPEAKS
from tests.contract.stage import FakeStage, HttpStage, Stage, stages
from tests.upstream import Upstream, scripted_upstream, silence


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`stage`: every kind. `http_stage`: every kind with an upstream. `wire_stage`: one kind of
    each dialect, for tests with many examples."""
    upstreams = stages()
    if "stage" in metafunc.fixturenames:
        everyone: list[Stage] = [*upstreams, FakeStage()]
        metafunc.parametrize("stage", everyone, ids=name_of)
    if "http_stage" in metafunc.fixturenames:
        metafunc.parametrize("http_stage", upstreams, ids=name_of)
    if "wire_stage" in metafunc.fixturenames:
        kinds = {dialect.wire: kind for kind, dialect in reversed(SPEAKS.items())}
        metafunc.parametrize("wire_stage", stages(kinds.values()), ids=name_of)


def name_of(stage: Stage) -> str:
    if isinstance(stage, HttpStage):
        return f"{stage.kind}-{'native' if stage.is_native else 'translated'}"
    return stage.kind


@pytest.fixture(scope="session")
def _scripted() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture
def server(_scripted: Upstream) -> Upstream:
    """An upstream on a real socket, which has been asked nothing yet."""
    _scripted.script = _scripted.listing = silence
    _scripted.asked = []
    return _scripted


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    yield made
    await made.aclose()
