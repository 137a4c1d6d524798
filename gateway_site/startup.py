"""What `abstractcore-server` sees to before it serves."""

from __future__ import annotations

import logging
import os
import sys

from django.conf import settings
from django.core.checks import ERROR, run_checks
from django.db import Error, connection

from gateway_site import env, migrations_state
from keys.models import MIN_SECRET_LENGTH, VirtualKey, make_secret

logger = logging.getLogger(__name__)


class NotReady(Exception):
    """Why the server does not start, in one sentence."""


def prepare(*, loopback: bool, migrate: bool) -> None:
    """Checks the settings and the database, migrates where that is asked for or harmless, and
    settles who may call. Raises NotReady."""
    problems = [str(problem.msg) for problem in run_checks() if problem.level >= ERROR]
    if problems:
        raise NotReady("; ".join(problems))
    try:
        # Whatever opens a new database, or makes its first key, does so alone.
        with migrations_state.alone():
            _migrate(asked=migrate)
            _settle_callers(loopback=loopback)
    except Error as error:
        raise NotReady(f"the database cannot be used: {str(error).strip()}") from None
    finally:
        connection.close()


def _migrate(*, asked: bool) -> None:
    """The embedded SQLite database is ours to migrate; a Postgres only with --migrate (M12)."""
    missing = migrations_state.unapplied()
    if not missing:
        return
    if asked or connection.vendor == "sqlite":
        migrations_state.migrate()
        return
    raise NotReady(
        f"the database lacks {len(missing)} migrations ({', '.join(missing[:5])}"
        f"{', …' if len(missing) > 5 else ''}); run with --migrate or `manage.py migrate`"
    )


def _settle_callers(*, loopback: bool) -> None:
    """A first run on a loopback address needs no key; one on any other makes an admin key."""
    has_keys = VirtualKey.objects.exists()
    fixed = env.text("ABSTRACTCORE_API_KEY")
    if fixed:
        _fix_key(fixed)
    elif not os.environ.get("ABSTRACTCORE_AUTH") and not has_keys and loopback:
        os.environ["ABSTRACTCORE_AUTH"] = settings.AUTH_MODE = "local"
        logger.info("No key exists yet: requests from this machine need none (local mode).")
    elif not has_keys and not loopback and settings.AUTH_MODE == "required":
        secret = make_secret()
        _make_key(secret)
        print(f"Admin key, shown this once: {secret}", file=sys.stderr, flush=True)
    if settings.AUTH_MODE == "off":
        logger.warning("Authentication is off: everyone who reaches this server is an admin.")


def _fix_key(secret: str) -> None:
    """The admin key whose value ABSTRACTCORE_API_KEY fixes."""
    if len(secret) < MIN_SECRET_LENGTH:
        raise NotReady(f"ABSTRACTCORE_API_KEY needs {MIN_SECRET_LENGTH} characters or more")
    key = VirtualKey.objects.filter(name="environment").first()
    if key is None:
        _make_key(secret, name="environment")
        return
    before = key.secret_sha256
    key.set_secret(secret)
    if key.secret_sha256 != before:
        key.save()


def _make_key(secret: str, *, name: str = "admin") -> None:
    key = VirtualKey(name=name, admin=True)
    key.set_secret(secret)
    key.save()
