"""The events of an Anthropic stream (SDK 2.12.0, `types/raw_*_event.py`), as they are decoded.

One tagged union, so that a packet's events cost one decoder call. What is not in it (`error`, new
events, new deltas) is read one by one (`anthropic_stream`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, get_args

import msgspec
from msgspec import Struct

from chat.ndjson import UNREADABLE
from providers.adapters.anthropic_usage import Tokens


class Head(Struct, gc=False):
    id: str = ""
    model: str = ""
    usage: Tokens | None = None


class MessageStart(Struct, gc=False, tag="message_start"):
    LINE: ClassVar[bytes] = b"event: message_start"
    message: Head


class BlockStart(Struct, gc=False, tag="content_block_start"):
    LINE: ClassVar[bytes] = b"event: content_block_start"
    index: int
    content_block: dict[str, Any]


class TextDelta(Struct, gc=False, tag="text_delta"):
    text: str


class ThinkingDelta(Struct, gc=False, tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, gc=False, tag="signature_delta"):
    signature: str


class InputDelta(Struct, gc=False, tag="input_json_delta"):
    partial_json: str


class CitationsDelta(Struct, gc=False, tag="citations_delta"):
    pass


AnyDelta = TextDelta | ThinkingDelta | SignatureDelta | InputDelta | CitationsDelta


class BlockDelta(Struct, gc=False, tag="content_block_delta"):
    LINE: ClassVar[bytes] = b"event: content_block_delta"
    index: int
    delta: AnyDelta


class BlockStop(Struct, gc=False, tag="content_block_stop"):
    LINE: ClassVar[bytes] = b"event: content_block_stop"
    index: int


class Ending(Struct, gc=False):
    stop_reason: str | None = None
    stop_details: Any = None


class MessageDelta(Struct, gc=False, tag="message_delta"):
    LINE: ClassVar[bytes] = b"event: message_delta"
    delta: Ending
    usage: Tokens | None = None


class MessageStop(Struct, gc=False, tag="message_stop"):
    LINE: ClassVar[bytes] = b"event: message_stop"


class Ping(Struct, gc=False, tag="ping"):
    LINE: ClassVar[bytes] = b"event: ping"


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping


def _tags(union: Any) -> frozenset[Any]:
    return frozenset(each.__struct_config__.tag for each in get_args(union))


KNOWN_EVENTS = _tags(Event)
KNOWN_DELTAS = _tags(AnyDelta)

decode_event: Callable[[bytes], Event] = msgspec.json.Decoder(Event).decode
_decode_events = msgspec.json.Decoder(list[Event]).decode


def decode_canonical(packet: bytes) -> list[Event] | None:
    """The events of a packet wholly in canonical framing (`event: <type>`, `data: {…}`, an empty
    line), else None."""
    count = packet.count(b"\n\n")
    if (
        packet[:7] != b"event: "
        or packet[-3:] != b"}\n\n"
        or b"\r" in packet
        or packet.count(b"\n") != 3 * count
        or packet.count(b"\ndata: {") != count
        or packet.count(b"}\n\nevent: ") != count - 1
    ):
        return None
    lines = packet.split(b"\n")
    try:
        events = _decode_events(b"[%b]" % b",".join([line[6:] for line in lines[1::3]]))
    except UNREADABLE:
        return None
    if len(events) != count:
        return None
    for line, event in zip(lines[::3], events, strict=False):  # one more line: the empty last
        if line != event.LINE:
            return None
    return events
