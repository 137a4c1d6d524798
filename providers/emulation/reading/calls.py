"""Where readers put what they found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from providers.emulation.reading.source import Malformed, NotOffered, Source

Schemas = dict[str, dict[str, Any]]
"""The names of the tools that may be called, each with the JSON Schema of its arguments."""


@dataclass(slots=True)
class Begun:
    """A call whose arguments come next."""

    name: str


@dataclass(slots=True)
class Arguments:
    """A piece of the JSON text of the last call's arguments."""

    text: str


Found = str | Begun | Arguments
"""A text of the answer, or a part of a call."""


class Calls:
    """What was found, in order. `begun` counts the calls."""

    def __init__(self, schemas: Schemas, source: Source) -> None:
        self.schemas = schemas
        self.begun = 0
        self._held: int | None = None
        self.found: list[Found] = []
        self._source = source

    def name(self, written: str) -> str:
        """The offered tool that is meant. Raises NotOffered."""
        name = written.strip().removeprefix("functions.")
        if name not in self.schemas:
            raise NotOffered
        return name

    def may_become(self, start: str) -> bool:
        """Whether the name of an offered tool begins so."""
        return any(name.startswith(start) for name in self.schemas)

    def say(self, text: str) -> None:
        if text:
            self.found.append(text)

    def begin(self, name: str) -> None:
        """From here on there is no way back, unless all is held."""
        if self._held is None:
            self._source.mark = None
        self.begun += 1
        self.found.append(Begun(name))

    def argue(self, text: str) -> None:
        last = self.found[-1] if self.found else None
        if isinstance(last, Arguments):
            last.text += text
        else:
            self.found.append(Arguments(text))

    def call(self, name: str, arguments: dict[str, Any]) -> None:
        """A whole call. Raises Malformed for values JSON has no words for."""
        written = json_of(arguments)
        self.begin(name)
        self.argue(written)

    def hold(self) -> None:
        """What is found from here on is not shown until `release`."""
        self._held = len(self.found)

    def release(self) -> None:
        self._held = None

    def taken(self) -> list[Found]:
        """What can be shown now."""
        end = len(self.found) if self._held is None else self._held
        if not end:
            return []
        found, self.found = self.found[:end], self.found[end:]
        self._held = None if self._held is None else 0
        return found


def json_of(value: Any) -> str:
    """JSON of a value that was not written as JSON. Raises Malformed."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise Malformed("a value is none that JSON knows") from None
