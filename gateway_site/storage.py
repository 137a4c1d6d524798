"""The data directory: the embedded database, the journal, local models' state, the secret key."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import platformdirs
from django.core.exceptions import ImproperlyConfigured

from gateway_site import env


def data_directory(base_dir: Path) -> Path:
    """ABSTRACTCORE_DATA_DIR, else `var/` of a checkout, else the user's own data directory.
    Made when missing, readable by its owner only."""
    named = env.text("ABSTRACTCORE_DATA_DIR")
    if named:
        path = Path(named).expanduser().resolve()
    elif (base_dir / "manage.py").is_file() and (base_dir / "pyproject.toml").is_file():
        path = base_dir / "var"
    else:
        path = platformdirs.user_data_path("abstractcore-server", appauthor=False)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(f"The data directory cannot be made: {error}") from None
    return path


def secret_keys(data_dir: Path) -> list[str]:
    """ABSTRACTCORE_SECRET_KEY's keys, newest first, else the one kept in the data directory."""
    keys = env.items("ABSTRACTCORE_SECRET_KEY")
    if any(len(key) < 16 for key in keys):
        raise ImproperlyConfigured(
            "Each key in ABSTRACTCORE_SECRET_KEY needs at least 16 characters."
        )
    return keys or [_kept_key(data_dir / "secret_key")]


def _kept_key(path: Path) -> str:
    if not path.exists():
        # Linked into place whole: of two processes that start at once, both read one winner's key.
        draft = path.with_name(f"secret_key.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text(encoding="utf-8").strip()
