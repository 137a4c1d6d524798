"""A Postgres database that is away for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


def database_beside(url: str, name: str) -> str:
    """The same server's address with another database in it; options after `?` are kept."""
    address, mark, options = url.partition("?")
    return f"{address.rpartition('/')[0]}/{name}{mark}{options}"


@contextmanager
def taken_away(url: str) -> Iterator[None]:
    """The database at this address takes nobody meanwhile, and lets go of all it has."""
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(database_beside(url, "postgres"), autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        try:
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
