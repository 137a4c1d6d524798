"""JSON lines, as Ollama streams: bytes in any split to whole lines, and lines that every reader
takes for one.

httpx, which Ollama's Python client reads lines with, breaks them at U+0085, U+2028 and U+2029 too
(`str.splitlines`), inside a JSON string as well: writers here escape those three.
"""

from __future__ import annotations

import msgspec
import orjson

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON they should be: not JSON or not of the shape,
not UTF-8, nested without end."""

MAX_LINE_BYTES = 32 * 1024 * 1024
"""An upstream that never ends a line must not fill our memory."""

_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


class LineTooLong(ValueError):
    """One line is longer than MAX_LINE_BYTES."""


class LineSplitter:
    """Packets in, whole lines out: `feed` gives what ends with a line break, `finish` the rest."""

    __slots__ = ("_held", "_rest")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._held = 0

    def feed(self, packet: bytes) -> bytes:
        """The whole lines up to here, each with its line break. Raises LineTooLong."""
        if not self._rest and packet.endswith(b"\n"):
            return packet
        whole, mark, rest = packet.rpartition(b"\n")
        if not mark:
            self._keep(packet)  # joined once, or a long line would be copied per packet
            return b""
        lines = b"".join([*self._rest, whole, mark])
        self._rest, self._held = [], 0
        self._keep(rest)
        return lines

    def finish(self) -> bytes:
        """The last line, where it came without a line break."""
        rest = b"".join(self._rest)
        self._rest, self._held = [], 0
        return rest

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._held += len(piece)
            if self._held > MAX_LINE_BYTES:
                raise LineTooLong
            self._rest.append(piece)


def is_json(raw: bytes) -> bool:
    """Whether this is a whole JSON value, rather than half of one where a stream was cut off."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


def is_text(raw: bytes) -> bool:
    """Whether this is UTF-8, as JSON has to be: msgspec does not look at what it skips."""
    if raw.isascii():
        return True
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def one_line(json: bytes) -> bytes:
    """The same JSON without the characters that some readers take for the end of a line."""
    if json.isascii():
        return json
    for character, escaped in _BREAKS:
        if character in json:
            json = json.replace(character, escaped)
    return json
