"""How the rest of the gateway tells what happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chat.ids import new_id
from events_app.lines import MAX_TEXT, EventLine

Sink = Callable[[EventLine], None]

_sink: Sink | None = None


def install_sink(sink: Sink | None) -> None:
    """Where events go in this process: the worker's journal, put here by the composition root.
    Nothing is published where there is none, as in a management command."""
    global _sink
    _sink = sink


def publish(
    type_: str,
    fields: dict[str, Any] | None = None,
    *,
    request_id: str = "",
    key: str = "",
    session_id: str = "",
    provider: str = "",
    model: str = "",
    id_: str = "",
) -> None:
    """Tells that something happened now. Costs the caller one write to the journal, from which the
    recorder makes the row: nothing told is lost when the process is killed. Never raises for want
    of space: an event that cannot be kept is dropped, and logged.

    `fields` are JSON values, texts in it are cut to MAX_TEXT characters; no prompt and no answer
    may be among them. `id_` is a UUID's hex, the same wherever several workers tell the same thing.
    """
    if _sink is None:
        return
    line = EventLine(
        id=id_ or new_id(),
        type=type_,
        at=time.time(),
        request_id=request_id,
        key=key,
        session_id=session_id,
        provider=provider,
        model=model,
        fields=_cut(fields) if fields else {},
    )
    _sink(line)


def _cut(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in fields.items()
    }
