"""Servers that begin together on a database nobody has used."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import ROOT

pytestmark = pytest.mark.once

PREPARE = """
import django
django.setup()
from gateway_site.startup import prepare
print("up", flush=True)
prepare(loopback=False, migrate=False)
print("ready", flush=True)
"""


def test_a_server_opens_no_new_database_that_another_is_making(tmp_path: Path) -> None:
    """Of two that open a new SQLite file at once, one would be told that it is locked; and both
    would make the first admin key."""
    database, data = tmp_path / "new.sqlite3", tmp_path / "data"
    data.mkdir()
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{database}",
        "ABSTRACTCORE_DATA_DIR": str(data),
        "DJANGO_SETTINGS_MODULE": "gateway_site.settings",
    }
    for name in ("ABSTRACTCORE_API_KEY", "ABSTRACTCORE_AUTH"):
        environment.pop(name, None)
    with (data / "migrate.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        server = subprocess.Popen(
            [sys.executable, "-c", PREPARE],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        assert select.select([server.stdout], [], [], 1.0)[0] == []
        assert not database.exists()
    told, error = server.communicate(timeout=60)
    assert told == "ready\n", error
    assert "Admin key" in error
