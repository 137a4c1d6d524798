"""Days as commands are told them."""

from __future__ import annotations

import argparse


def days(text: str) -> float:
    """For `add_argument(type=…)`."""
    number = float(text)
    if not 0 <= number <= 36_500:
        raise argparse.ArgumentTypeError("give a number of days, 0 or more")
    return number
