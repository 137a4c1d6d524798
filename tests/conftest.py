"""What every app's tests may ask for."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from django.conf import settings

from tests.chaos.outage import database_beside
from tests.gateway import Gateway, configuration, running_gateway, with_ollama
from tests.upstream import Upstream, scripted_upstream, silence


def pytest_collection_finish() -> None:
    """Eleven thousand tests stay until the end: the collector need not walk through them, which
    held tests up for a second now and then."""
    gc.collect()
    gc.freeze()


def require_or_skip(reason: str) -> NoReturn:
    """Skip the test for want of a service; where REQUIRE_SERVICES is set, as in CI, fail it."""
    if os.environ.get("REQUIRE_SERVICES", "0") not in ("", "0"):
        pytest.fail(f"REQUIRE_SERVICES is set, and {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture
def spare_database_url(tmp_path: Path) -> Iterator[str]:
    """As `spare_database` says, of a test of its own."""
    with spare_database(tmp_path) as url:
        yield url


@contextmanager
def spare_database(folder: Path) -> Iterator[str]:
    """DATABASE_URL of an empty database for a server started as a process of its own.

    Of the engine the suite runs on: a file in `folder`, or a database dropped afterwards.
    """
    if settings.DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
        yield f"sqlite:///{folder / 'spare.sqlite3'}"
        return
    base = os.environ["DATABASE_URL"]
    name = f"spare_{uuid.uuid4().hex}"
    with psycopg.connect(base, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield database_beside(base, name)
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _upstream() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def gateway(_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A server process that every test may ask and none may harm; its provider is `upstream`."""
    folder = tmp_path_factory.mktemp("gateway")
    with (
        spare_database(folder) as url,
        running_gateway(folder, url, _upstream.base_url) as gateway,
    ):
        yield gateway


@pytest.fixture(scope="session")
def mixed_gateway(
    _upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A server process whose providers `scripted` (openai-compatible) and `llama` (ollama) are
    both `upstream`."""
    folder = tmp_path_factory.mktemp("mixed")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(with_ollama(configuration(_upstream.base_url)))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def upstream(_upstream: Upstream) -> Upstream:
    """The scripted provider of `gateway`, which has been asked nothing yet."""
    _upstream.script = silence
    _upstream.early = None
    _upstream.asked = []
    return _upstream
