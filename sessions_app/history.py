"""What was said before a request, in the order in which it was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sessions_app.models import StoredResponse


@dataclass(frozen=True, slots=True)
class Earlier:
    """Items, and the provider whose own Responses API said them: empty where they were translated,
    so that only their words can be given to anybody."""

    items: list[dict[str, Any]]
    provider: str = ""


def turn_of(row: StoredResponse) -> Earlier:
    """A response's input and output."""
    return Earlier(row.read_items(), row.provider if row.native else "")
