"""`manage.py prune_sessions`."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.utils import timezone

from gateway_site.management.days import days
from gateway_site.management.one_line_errors import one_line_errors
from sessions_app.retention import expiry, prune


class Command(BaseCommand):
    help = (
        "Deletes the sessions and conversations that nobody has gone on with for "
        "ABSTRACTCORE_SESSIONS_RETENTION days, in small steps beside running servers. Those do so "
        "by themselves every minute where that is set."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--days", type=days, help="keep what is no older than so many days instead"
        )

    def handle(self, *, days: float | None, **_: Any) -> None:
        before = expiry() if days is None else timezone.now() - timedelta(days=days)
        if before is None:
            raise CommandError("Set ABSTRACTCORE_SESSIONS_RETENTION, or say how many --days.")
        with one_line_errors():
            deleted = prune(before)
        self.stdout.write(f"{deleted} sessions and conversations deleted.")
