"""`manage.py export_config`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError

from gateway_site.configuration_export import export
from gateway_site.management.one_line_errors import one_line_errors
from gateway_site.migrations_state import make_ready


class Command(BaseCommand):
    help = (
        "Writes the configuration as a YAML file for apply_config. Secrets are not in it: a stored "
        "credential becomes api_key_env: ABSTRACTCORE_PROVIDER_<NAME>_API_KEY, a virtual key gets "
        "secret_env: ABSTRACTCORE_KEY_<NAME>_SECRET, and the file's first lines list them. Applied "
        "to the database it came from, it changes nothing. A database without tables gets them "
        "first."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "file", metavar="FILE", nargs="?", default="-", help="default: standard output"
        )

    def handle(self, *, file: str, **_: Any) -> None:
        with one_line_errors():
            make_ready()
            text = export()
        if file == "-":
            self.stdout.write(text, ending="")
            return
        try:
            _write(Path(file), text)
        except OSError as error:
            raise CommandError(f"{file} cannot be written: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    if path.exists() and not path.is_file():  # a pipe or a device
        path.write_text(text, encoding="utf-8")
        return
    # Put in place whole: half a file is YAML too, and applied with --prune it would delete rows.
    path = path.resolve()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
