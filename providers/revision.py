"""The configuration's revision, counted by the database itself.

Triggers on the configuration tables raise one number in the same transaction as the change, so
that every writer counts (admin, commands, a shell, plain SQL), and a worker that polls the number
never sees it before the change.
"""

from __future__ import annotations

from collections.abc import Callable

from django.apps.registry import Apps
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import RunPython

_BUMP = "UPDATE providers_configrevision SET revision = revision + 1"
_ACTIONS = ("INSERT", "UPDATE", "DELETE")


def count_changes(*tables: str) -> RunPython:
    """A migration operation: changes of these tables raise the revision.

    SQLite drops a table's triggers when Django rebuilds it: see `keep_counting`.
    """

    def drop(_: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        for statement in _drop_statements(editor.connection.vendor, tables):
            editor.execute(statement)

    return RunPython(_creation(tables), drop)


def keep_counting(*tables: str) -> RunPython:
    """A migration operation for one that alters these tables, first and last in it: whichever way
    it goes, the triggers are there again at the end."""
    return RunPython(_creation(tables), _creation(tables))


def _creation(tables: tuple[str, ...]) -> Callable[[Apps, BaseDatabaseSchemaEditor], None]:
    def create(_: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        for statement in _create_statements(editor.connection.vendor, tables):
            editor.execute(statement)

    return create


def _create_statements(vendor: str, tables: tuple[str, ...]) -> list[str]:
    if vendor == "postgresql":
        function = (
            "CREATE OR REPLACE FUNCTION abstractcore_count_change() RETURNS trigger AS "
            f"$$ BEGIN {_BUMP}; RETURN NULL; END $$ LANGUAGE plpgsql"
        )
        return [function] + [
            f"CREATE OR REPLACE TRIGGER {table}_revision "
            f"AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION abstractcore_count_change()"
            for table in tables
        ]
    return [
        f"CREATE TRIGGER IF NOT EXISTS {table}_revision_{action.lower()} AFTER {action} ON {table} "
        f"BEGIN {_BUMP}; END"
        for table in tables
        for action in _ACTIONS
    ]


def _drop_statements(vendor: str, tables: tuple[str, ...]) -> list[str]:
    if vendor == "postgresql":
        return [f"DROP TRIGGER IF EXISTS {table}_revision ON {table}" for table in tables]
    return [
        f"DROP TRIGGER IF EXISTS {table}_revision_{action.lower()}"
        for table in tables
        for action in _ACTIONS
    ]
