"""The only SSE codec: reads event streams in any split, writes them in one canonical form.

Reading follows the WHATWG algorithm (CR, LF and CRLF line ends, comments, several `data:` lines,
an optional space after the colon, a byte order mark at the start), on bytes, so that a character
cut between two packets needs no care. Writing is LF and one space: measured to be what every
client takes.
"""

from __future__ import annotations

import msgspec

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""An upstream that never ends an event must not fill our memory."""

KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"


class EventTooLarge(ValueError):
    """One event is larger than MAX_EVENT_BYTES."""


class SSEEvent(msgspec.Struct, gc=False):
    """One event. `type` is empty when no `event:` line named one."""

    data: bytes
    type: str = ""


class SSEDecoder:
    """Bytes in, whole events out. Feed it packets as they come; call `finish` at the end."""

    __slots__ = ("_data", "_held", "_rest", "_skip_lf", "_started", "_type")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._held = 0
        self._data: list[bytes] = []
        self._type = ""
        self._skip_lf = False
        self._started = False

    @property
    def clean(self) -> bool:
        """Whether the next packet begins a new event."""
        return not (self._rest or self._data or self._type or self._skip_lf)

    def feed(self, packet: bytes) -> list[SSEEvent]:
        """The events this packet completes. Raises EventTooLarge."""
        if self._skip_lf and packet:
            packet = packet.removeprefix(b"\n")
            self._skip_lf = False
        self._held += len(packet)
        if self._held > MAX_EVENT_BYTES:
            raise EventTooLarge
        if self._started and b"\n" not in packet and b"\r" not in packet:
            self._rest.append(packet)  # joined once, or a long line would be copied per packet
            return []
        return self._lines(b"".join([*self._rest, packet]))

    def _lines(self, buffer: bytes) -> list[SSEEvent]:
        if not self._started:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._rest = [buffer]
                return []
            self._started = True
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
        self._skip_lf = buffer.endswith(b"\r")
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = buffer.split(b"\n")
        self._rest = [rest] if rest else []
        events = [event for line in lines if (event := self._line(line)) is not None]
        self._held = len(rest) + sum(map(len, self._data))
        return events

    def finish(self) -> list[SSEEvent]:
        """The event left open when the stream ended: many servers leave out the last blank line."""
        events = []
        for line in (b"".join(self._rest), b""):
            if (event := self._line(line)) is not None:
                events.append(event)
        self._rest = []
        return events

    def _line(self, line: bytes) -> SSEEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name == b"event":
            self._type = value.removeprefix(b" ").decode("utf-8", "replace")
        return None

    def _dispatch(self) -> SSEEvent | None:
        data, kind = self._data, self._type
        self._data, self._type = [], ""
        return SSEEvent(b"\n".join(data), kind) if data else None


def encode_event(data: bytes, event: str = "", *, id_: int | None = None) -> bytes:
    """One event in canonical form. `data` must hold no line break (JSON never does)."""
    if id_ is not None:
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (id_, event.encode(), data)
    if event:
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    return b"data: %b\n\n" % data
