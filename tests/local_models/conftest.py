"""Children that tests share which do not kill them, one for each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from providers.http import HttpClient
from providers.runner.supervisor import release_all
from tests.local_models.local import OURS, Local, client, shared


@pytest.fixture(scope="session")
def children() -> Iterator[dict[str, Local]]:
    made: dict[str, Local] = {}
    yield made
    for local in made.values():
        local.end()
    release_all()


@pytest.fixture(params=["llama", *OURS])
def each(
    request: pytest.FixtureRequest,
    children: dict[str, Local],
    tmp_path_factory: pytest.TempPathFactory,
) -> Local:
    return shared(children, tmp_path_factory, request.param)


@pytest.fixture(params=OURS)
def ours(
    request: pytest.FixtureRequest,
    children: dict[str, Local],
    tmp_path_factory: pytest.TempPathFactory,
) -> Local:
    return shared(children, tmp_path_factory, request.param)


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    opened = client()
    yield opened
    await opened.aclose()
