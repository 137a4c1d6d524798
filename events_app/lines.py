"""An event on its way to its row: a line of the journal, beside those of the ledger."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

MAX_TEXT = 300
"""Characters kept of a text in `fields`: a tool's error may be as long as its author likes."""


class EventLine(Struct, kw_only=True, omit_defaults=True, tag_field="line", tag="event", gc=False):
    """Something that happened. Texts are empty where they do not apply; `fields` are JSON values by
    the names of the event's type (docs/events.md), never a prompt and never an answer.

    `id` is a UUID's hex; a line of the same `id` and `type` becomes one row however often it is
    inserted, also by several workers.
    """

    id: str
    type: str
    at: float
    """Seconds since 1970."""
    request_id: str = ""
    key: str = ""
    session_id: str = ""
    provider: str = ""
    model: str = ""
    fields: dict[str, Any] = {}


def shortened(line: EventLine) -> EventLine:
    """The same with every text cut to MAX_TEXT characters; what is nested goes."""
    texts = {
        name: value[:MAX_TEXT]
        for name in line.__struct_fields__
        if isinstance(value := getattr(line, name), str)
    }
    fields = {
        name[:MAX_TEXT]: value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in line.fields.items()
        if isinstance(value, str | int | float | None)
    }
    return msgspec.structs.replace(line, **texts, fields=fields)
