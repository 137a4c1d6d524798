"""`manage.py show_tool_secret`."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management import BaseCommand, CommandError

from gateway_site.management.one_line_errors import one_line_errors
from gateway_site.migrations_state import make_ready
from providers.secrets import SecretUnreadable
from tools_app.models import Tool


class Command(BaseCommand):
    help = "Prints the secret that the calls of an HTTP tool are signed with: only that."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")

    def handle(self, *, name: str, **_: Any) -> None:
        with one_line_errors():
            make_ready()
            row = Tool.objects.filter(name=name).first()
        if row is None:
            raise CommandError(f"There is no tool named {name}.")
        if not row.signing_secret:
            raise CommandError(f"{name} has no secret: only the calls of http tools are signed.")
        try:
            self.stdout.write(row.reveal_signing_secret())
        except SecretUnreadable:
            raise CommandError("It was encrypted under a secret key this server lacks.") from None
