"""Money in the database."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

QUANTUM = Decimal("1e-12")
"""One pico-dollar: a token at a price of six decimals per million is a whole number of them."""


class UsdField(models.BigIntegerField):  # type: ignore[type-arg]  # takes none at run time
    """US dollars as a Decimal, kept as whole pico-dollars.

    SQLite has no decimal type: Django's DecimalField would sum floats there, and sums of the
    ledger have to agree to the last digit. Holds up to 9.2 million dollars.
    """

    description = "US dollars"

    def get_prep_value(self, value: Any) -> int | None:
        return None if value is None else to_picodollars(Decimal(value))

    def from_db_value(
        self, value: Any, expression: Any, connection: BaseDatabaseWrapper
    ) -> Decimal | None:
        return None if value is None else from_picodollars(int(value))

    def to_python(self, value: Any) -> Decimal | None:
        return None if value is None else Decimal(value)


def to_picodollars(amount: Decimal) -> int:
    return int((amount / QUANTUM).to_integral_value(ROUND_HALF_EVEN))


def from_picodollars(count: int) -> Decimal:
    return Decimal(count) * QUANTUM


def usd_text(amount: Decimal | None) -> str | None:
    """A plain decimal without exponent or padding: `0.0000636`."""
    if amount is None:
        return None
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
