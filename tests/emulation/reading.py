"""What the reader makes of a text, whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from providers.emulation.reading.answer import AnswerReader, Dialect
from providers.emulation.reading.calls import Begun

ALL_DIALECTS = (Dialect(), Dialect(json_anywhere=True), Dialect(json_anywhere=True, python=True))


class Read(NamedTuple):
    """An answer as it was read. `faults` tells of each unreadable call whether it broke off."""

    content: str
    calls: list[tuple[str, str]]
    faults: list[bool]

    @property
    def values(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def read(
    pieces: str | Iterable[str],
    offered: dict[str, dict[str, Any]] | Sequence[str],
    dialect: Dialect = ALL_DIALECTS[0],
) -> Read:
    """A text in one piece, or the pieces as they are."""
    schemas = offered if isinstance(offered, dict) else dict.fromkeys(offered, {})
    reader = AnswerReader(schemas, dialect)
    if isinstance(pieces, str):
        found = reader.read_whole(pieces)
    else:
        found = [each for piece in pieces for each in reader.feed(piece)]
        found += reader.finish()
    content, calls = "", []
    for each in found:
        if isinstance(each, str):
            content += each
        elif isinstance(each, Begun):
            calls.append((each.name, ""))
        else:
            calls[-1] = (calls[-1][0], calls[-1][1] + each.text)
    return Read(content, calls, [fault.broken_off for fault in reader.faults])
