"""Whether the database's tables are this version's, and how they become so."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

_ADVISORY_LOCK = 0x61636D69
"""Names the lock among all advisory locks of a Postgres database: any fixed number does."""


class UnappliedMigrations(Exception):
    """The database has tables, of an older version. `names` are the migrations it lacks."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"The database lacks migrations: {', '.join(names)}.")
        self.names = names


def is_empty() -> bool:
    """Whether no migration was ever applied. Raises DatabaseError."""
    return not MigrationRecorder(connection).applied_migrations()


def unapplied() -> list[str]:
    """The migrations the database lacks, as `app.name`, in order. Raises DatabaseError."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def migrate() -> None:
    """Applies what is missing; to be called `alone`."""
    call_command("migrate", interactive=False, verbosity=0)


def make_ready() -> None:
    """Makes the tables of a database that has none. Raises UnappliedMigrations where there are
    tables but older ones: to change a database in use is the operator's decision."""
    # The first look is behind the lock too: it opens the database, and of two processes that make
    # a new SQLite file a write-ahead log at once, one is told that it is locked, without a wait.
    with alone():
        names = unapplied()
        if not names:
            return
        if not is_empty():
            raise UnappliedMigrations(names)
        migrate()


@contextmanager
def alone() -> Iterator[None]:
    """Of several processes at once, one goes on and the others wait. Ends with this process at the
    latest, however that ends."""
    if connection.vendor != "postgresql":
        with open(settings.DATA_DIR / "migrate.lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [_ADVISORY_LOCK])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
