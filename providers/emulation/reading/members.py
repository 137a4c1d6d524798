"""Arguments that an envelope writes as raw text, one parameter after another, as JSON."""

from __future__ import annotations

from providers.emulation.reading.calls import Calls, json_of
from providers.emulation.reading.source import Malformed, Reading, Source
from providers.emulation.reading.typed import is_text, typed


class Members:
    """The arguments of one call. A text is passed on while it comes, since models write whole
    files as one; what has another type is known when it is whole."""

    def __init__(self, calls: Calls, name: str) -> None:
        calls.begin(name)
        self._calls = calls
        self._schema = calls.schemas[name]
        self._names: set[str] = set()

    def read(self, source: Source, name: str, *stops: str, in_lines: bool = False) -> Reading[str]:
        """A parameter up to the first of `stops`, which is given back. `in_lines` says that the
        text stands in lines of its own. Raises Malformed for a parameter that stands twice, or is
        not closed."""
        self._begin(name)
        if is_text(name, self._schema):
            text = _Text(self._calls, in_lines=in_lines)
            stop = yield from source.flow(text.add, *stops)
            text.end()
        else:
            raw, stop = yield from source.until(*stops)
            raw = raw.removeprefix("\n").removesuffix("\n") if in_lines else raw
            self._calls.argue(json_of(typed(raw, name, self._schema)))
        if not stop:
            raise Malformed(f"the parameter {name[:64]!r} is not closed")
        return stop

    def add(self, name: str, text: str) -> None:
        """A parameter whose text is here."""
        self._begin(name)
        self._calls.argue(json_of(typed(text, name, self._schema)))

    def end(self) -> None:
        self._calls.argue("}" if self._names else "{}")

    def _begin(self, name: str) -> None:
        if name in self._names:
            raise Malformed(f"the parameter {name[:64]!r} stands twice")
        self._calls.argue(f"{',' if self._names else '{'}{json_of(name)}:")
        self._names.add(name)


class _Text:
    """A JSON string in the making."""

    def __init__(self, calls: Calls, *, in_lines: bool) -> None:
        self._calls = calls
        self._in_lines = in_lines
        self._is_first = True
        self._held = ""
        self._calls.argue('"')

    def add(self, text: str) -> None:
        if self._in_lines and text:
            text = text.removeprefix("\n") if self._is_first else text
            text = self._held + text
            self._held = "\n" if text.endswith("\n") else ""
            text = text.removesuffix("\n")
            self._is_first = False
        self._calls.argue(json_of(text)[1:-1])

    def end(self) -> None:
        self._calls.argue('"')
