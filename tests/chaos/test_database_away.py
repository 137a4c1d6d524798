"""A database that goes away and comes back, on Postgres."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
from django.conf import settings

from tests.conftest import database_beside
from tests.gateway import Gateway, running_gateway, wait_until
from tests.upstream import completion, scripted_upstream, whole

pytestmark = pytest.mark.skipif(
    "postgresql" not in settings.DATABASES["default"]["ENGINE"],
    reason="a file does not go away as a server does",
)
AWAY_S = 16.0
BACK_WITHIN_S = 6.0
UNKNOWN = "gw-unknown-0123456789abcdef0123456789abcdef"


def status_of_an_unknown_key(gateway: Gateway) -> int:
    """503 while the database is away, 401 once it has been asked."""
    headers = {"x-api-key": UNKNOWN}
    return gateway.call("GET", "/v1/models", headers=headers).status


def test_a_database_that_was_away_long_is_used_again_soon(
    tmp_path: Path, spare_database_url: str
) -> None:
    name = spare_database_url.partition("?")[0].rpartition("/")[2]
    with (
        scripted_upstream(whole(200, completion())) as upstream,
        running_gateway(tmp_path, spare_database_url, upstream.base_url) as gateway,
        psycopg.connect(database_beside(spare_database_url, "postgres"), autocommit=True) as admin,
    ):
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        until = time.monotonic() + AWAY_S
        while time.monotonic() < until:
            assert status_of_an_unknown_key(gateway) == 503
            time.sleep(0.5)
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
        wait_until(lambda: status_of_an_unknown_key(gateway) == 401, seconds=BACK_WITHIN_S)
