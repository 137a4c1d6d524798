"""`manage.py prune_events`."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from django.core.management import BaseCommand
from django.utils import timezone

from events_app.retention import expiry, prune
from gateway_site.management.days import days
from gateway_site.management.one_line_errors import one_line_errors


class Command(BaseCommand):
    help = (
        "Deletes the events older than ABSTRACTCORE_EVENTS_RETENTION days, in small steps beside "
        "running servers. Those do so by themselves every minute."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--days", type=days, help="keep events of so many days instead of the setting's"
        )

    def handle(self, *, days: float | None, **_: Any) -> None:
        before = expiry() if days is None else timezone.now() - timedelta(days=days)
        with one_line_errors():
            deleted = prune(before)
        self.stdout.write(f"{deleted} events deleted.")
