"""Tells that a provider has become unavailable, degraded or healthy: once over all workers.

Every worker asks the providers by itself, so all of them see a change, some of them much later.
What was told last stands in the table of events, and the next one's id is made from it: of all
workers that go on from there only the first is heard, and the others find that it has been told.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping

from django.db import Error

from events_app.models import Event, EventType
from events_app.publishing import publish
from events_app.telling import last_of_provider
from providers.health import Seen

RECORDED_WITHIN_S = 10.0
"""For so long an event is waited for on its way to the table, before it is told again."""
_CHANGES = uuid.UUID("0d6f7f6e-6a0c-4f2d-8a67-0a9f9d1c3b52")


class ProviderChanges:
    """One worker's, whose `look` says how it finds the providers it has asked, by their names.
    `step` is for one thread, twice a second or so."""

    def __init__(self, look: Callable[[], Mapping[str, Seen]]) -> None:
        self._look = look
        self._settled: dict[str, Seen] = {}
        """What was told already, or goes without saying."""
        self._telling: dict[str, tuple[uuid.UUID, float]] = {}
        """What this worker tells, until when it is waited for in the table."""

    def step(self) -> None:
        """A database that is away is met again at the next step."""
        found = self._look()
        self._settled = {name: seen for name, seen in self._settled.items() if name in found}
        try:
            for name, seen in found.items():
                # A new listing is compared again though nothing changed: what others told may
                # have been over before it was asked for.
                if self._settled.get(name) != seen:
                    self._compare(name, seen)
        except Error:
            return  # the configuration's thread tells of it

    def _compare(self, name: str, seen: Seen) -> None:
        last = last_of_provider(EventType.PROVIDER_STATUS_CHANGED, name)
        line, until = self._telling.get(name, (None, 0.0))
        if line is not None and (last is None or last.line != line) and time.monotonic() < until:
            return
        self._telling.pop(name, None)
        before = self._before(name) if last is None else last.fields["to"]
        if before in (None, seen.status) or (last is not None and _is_overtaken(seen, last)):
            self._settled[name] = seen
        else:
            self._tell(name, before, seen, uuid.uuid5(_CHANGES, f"{name} {last and last.line}"))

    def _before(self, name: str) -> str | None:
        """What a provider was that nothing was ever told of; None at the first look at it."""
        settled = self._settled.get(name)
        return settled.status if settled is not None else None

    def _tell(self, name: str, before: str, seen: Seen, line: uuid.UUID) -> None:
        self._telling[name] = line, time.monotonic() + RECORDED_WITHIN_S
        fields = {"from": before, "to": seen.status, "reason": seen.reason}
        publish(EventType.PROVIDER_STATUS_CHANGED, fields, provider=name, id_=line.hex)


def _is_overtaken(seen: Seen, last: Event) -> bool:
    """Whether a provider was found unavailable since this worker has asked it: breakers that open
    and close meanwhile tell nothing else."""
    return last.fields["to"] == "unavailable" and seen.at < last.created_at.timestamp()
