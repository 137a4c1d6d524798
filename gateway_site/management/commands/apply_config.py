"""`manage.py apply_config`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError

from gateway_site.configuration import apply
from gateway_site.configuration_file import read_configuration
from gateway_site.management.one_line_errors import one_line_errors
from gateway_site.migrations_state import make_ready


class Command(BaseCommand):
    help = (
        "Makes the configuration in the database match a YAML file, or changes nothing. Prints "
        "the differences. What an entry leaves out returns to its default; a virtual key without "
        "secret and secret_env keeps its secret. A database without tables gets them first."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the YAML file; - reads standard input")
        parser.add_argument(
            "--dry-run", action="store_true", help="print the differences and change no row"
        )
        parser.add_argument(
            "--prune",
            action="store_true",
            help="delete what the file does not name: providers (those every database begins "
            "with too), deployments, routes and virtual keys, which are revoked so",
        )

    def handle(self, *, file: str, dry_run: bool, prune: bool, **_: Any) -> None:
        with one_line_errors():
            configuration = read_configuration(_read(file))
            make_ready()
            changes = apply(configuration, prune=prune, dry_run=dry_run)
        for note in changes.notes:
            self.stderr.write(note)
        for line in changes.lines or ["no changes"]:
            self.stdout.write(line)


def _read(file: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not UTF-8 text") from None
