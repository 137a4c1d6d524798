"""What the environment makes of the settings, read by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from gateway_site import env

pytestmark = pytest.mark.once
ROOT = Path(__file__).resolve().parents[2]


def setting(expression: str, data_dir: Path, **environment: str) -> Any:
    """The value of an expression over `settings` in that environment."""
    program = f"import json; from django.conf import settings; print(json.dumps({expression}))"
    own = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**own, "ABSTRACTCORE_DATA_DIR": str(data_dir), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("url", ["", "sqlite:////tmp/elsewhere.sqlite3"])
def test_every_sqlite_waits_its_turn_and_keeps_a_write_ahead_log(tmp_path: Path, url: str) -> None:
    options = setting("settings.DATABASES['default']['OPTIONS']", tmp_path, DATABASE_URL=url)
    assert options["transaction_mode"] == "IMMEDIATE"
    assert options["timeout"] == 20
    assert "journal_mode=WAL" in options["init_command"]


def test_an_option_in_the_address_wins(tmp_path: Path) -> None:
    url = "sqlite:////tmp/elsewhere.sqlite3?timeout=3"
    options = setting("settings.DATABASES['default']['OPTIONS']", tmp_path, DATABASE_URL=url)
    assert int(options["timeout"]) == 3
    assert options["transaction_mode"] == "IMMEDIATE"


@pytest.mark.parametrize(("https", "secure"), [("true", True), ("false", False)])
def test_cookies_are_for_tls_alone_where_there_is_tls(
    tmp_path: Path, https: str, secure: bool
) -> None:
    expression = "[settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE]"
    assert setting(expression, tmp_path, ABSTRACTCORE_HTTPS=https) == [secure, secure]


def test_a_folder_that_does_not_exist_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABSTRACTCORE_MODELS_DIR", str(tmp_path))
    assert env.folder("ABSTRACTCORE_MODELS_DIR") == str(tmp_path)
    monkeypatch.setenv("ABSTRACTCORE_MODELS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ImproperlyConfigured, match="ABSTRACTCORE_MODELS_DIR must name a folder"):
        env.folder("ABSTRACTCORE_MODELS_DIR")


def test_an_address_of_another_scheme_stops_the_start_without_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "https://:a-password@localhost:6379/0")
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL must begin with") as told:
        env.address("REDIS_URL", ("redis", "rediss", "unix"))
    assert "a-password" not in str(told.value)


def test_workers_ring_through_redis_where_there_is_one(tmp_path: Path) -> None:
    expression = "settings.CHANNEL_LAYERS['default']"
    url = "redis://localhost:6379/0"
    layer = setting(expression, tmp_path, REDIS_URL=url)
    assert layer["CONFIG"]["hosts"][0]["address"] == url
