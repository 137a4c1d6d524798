"""Servers of these tests' own: what is done to them must not reach other tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import spare_database
from tests.gateway import Gateway, Server, running_gateway
from tests.upstream import Upstream, scripted_upstream, silence


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def served(
    request: pytest.FixtureRequest, provider: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway under each server, for the tests of one module."""
    server: Server = request.param
    folder: Path = tmp_path_factory.mktemp(server)
    with (
        spare_database(folder) as url,
        running_gateway(folder, url, provider.base_url, server=server) as gateway,
    ):
        yield gateway
