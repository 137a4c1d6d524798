"""What the tests with clients nobody here wrote stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.conversation import talking_gateway
from tests.conftest import spare_database
from tests.gateway import Gateway


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A server process with a provider of every kind, each of which holds the same conversation."""
    folder = tmp_path_factory.mktemp("talking")
    with spare_database(folder) as url, talking_gateway(folder, url) as gateway:
        yield gateway
