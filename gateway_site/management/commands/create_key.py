"""`manage.py create_key`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError
from django.db import IntegrityError, transaction
from django.utils import timezone

from gateway_site.configuration_schema import read_moment, read_usd
from gateway_site.management.one_line_errors import one_line_errors
from gateway_site.migrations_state import make_ready
from keys.models import BudgetPeriod, VirtualKey, make_secret

T = TypeVar("T")


class Command(BaseCommand):
    help = "Makes a virtual key and prints its secret, this once: only that on standard output."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--admin", action="store_true", help="may see and test everything")
        add("--models", nargs="+", metavar="GLOB", help="public names it may use (default: all)")
        add("--tools", nargs="+", metavar="GLOB", help="tools it may use (default: all)")
        add("--rpm", type=int, metavar="N", help="requests a minute")
        add("--tpm", type=int, metavar="N", help="tokens a minute")
        add("--max-parallel", type=int, metavar="N", help="requests at once")
        add("--budget", type=_argument(read_usd), metavar="USD", help="0 is nothing")
        add("--period", choices=BudgetPeriod.values, default=BudgetPeriod.MONTH.value)
        add("--expires", type=_argument(read_moment), metavar="RFC3339")

    def handle(
        self,
        *,
        name: str,
        admin: bool,
        models: list[str] | None,
        tools: list[str] | None,
        rpm: int | None,
        tpm: int | None,
        max_parallel: int | None,
        budget: Decimal | None,
        period: str,
        expires: datetime | None,
        **_: Any,
    ) -> None:
        key = VirtualKey(
            name=name,
            admin=admin,
            allowed_models=models,
            allowed_tools=tools,
            rpm=rpm,
            tpm=tpm,
            max_parallel=max_parallel,
            budget_usd=budget,
            budget_period=period,
            expires_at=expires,
        )
        secret = make_secret()
        key.set_secret(secret)
        with one_line_errors():
            make_ready()
            _save(key)
        if budget is not None:
            self.stderr.write("The budget is kept with the key, but not enforced in this version.")
        self.stderr.write(f"The key {name} was made. Its secret is shown this once:")
        self.stdout.write(secret)


def _argument(read: Callable[[object], T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _save(key: VirtualKey) -> None:
    if key.expires_at is not None and key.expires_at <= timezone.now():
        raise CommandError("--expires is in the past.")
    try:
        key.clean_fields()
        with transaction.atomic():
            key.save(force_insert=True)
    except ValidationError as error:
        lines = [f"{field}: {' '.join(texts)}" for field, texts in error.message_dict.items()]
        raise CommandError("\n".join(lines)) from None
    except IntegrityError:
        raise CommandError(f"There is a key named {key.name} already.") from None
