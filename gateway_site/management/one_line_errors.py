"""What an operator is told when a command cannot do its work: lines, not a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management import CommandError
from django.db import Error, OperationalError

from gateway_site.configuration_file import ConfigurationError
from gateway_site.migrations_state import UnappliedMigrations


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raises CommandError (exit code 1) for what the configuration or the database is to blame."""
    try:
        yield
    except ConfigurationError as error:
        lines = "\n".join(error.problems)
        raise CommandError(f"The configuration is wrong, nothing was changed:\n{lines}") from None
    except UnappliedMigrations as error:
        raise CommandError(f"{error} Run `manage.py migrate` first.") from None
    except Error as error:
        raise CommandError(f"Nothing was changed: {_cause(error)}") from None


def _cause(error: Error) -> str:
    # Of the others (a constraint, a value out of range) the text holds the row.
    if isinstance(error, OperationalError):
        return f"the database cannot be used: {str(error).strip()}"
    return f"the database refused the change ({type(error).__name__})"
