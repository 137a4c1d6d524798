"""The events of one stream, in order and numbered."""

from __future__ import annotations

from typing import Any

import orjson

from chat.errors import GatewayError
from chat.responses import ResponsesBatch
from chat.sse import encode_event
from chat.types import ChatChunk
from gateway_api.openai.responses.builder import Event, ResponseBuilder


class Telling:
    """What was told so far. `builder` is there once a translated answer has begun; `failure` says
    that the stream has told how it failed."""

    def __init__(self) -> None:
        self.builder: ResponseBuilder | None = None
        self.anything = False
        self.failure = False
        self._number = 0

    def native(self, batch: ResponsesBatch, amendments: dict[str, Any]) -> bytes:
        """A provider's own events, with these fields of the Response objects in them set."""
        self.anything = True
        self.failure = batch.failed
        self._number = batch.sequence_number + 1
        wire = batch.wire or b""
        return _amended(wire, amendments) if amendments else wire

    def translated(self, builder: ResponseBuilder, chunks: list[ChatChunk]) -> bytes:
        self.builder, self.anything = builder, True
        return self.encode(builder.add(chunks))

    def error(self, error: GatewayError) -> bytes:
        """The end of a stream whose Response object is not known."""
        told = {"type": "error", "code": error.code, "message": error.message}
        return self.encode([{**told, "param": error.param}])

    def encode(self, events: list[Event]) -> bytes:
        pieces = []
        for event in events:
            event["sequence_number"] = self._number
            self._number += 1
            pieces.append(encode_event(orjson.dumps(event), event["type"]))
        return b"".join(pieces)


def split_events(wire: bytes) -> list[Event]:
    """The events in canonical form."""
    blocks = wire.removesuffix(b"\n\n").split(b"\n\n")
    return [orjson.loads(block.rpartition(b"data: ")[2]) for block in blocks if block]


def _amended(wire: bytes, amendments: dict[str, Any]) -> bytes:
    events = []
    for event in wire.removesuffix(b"\n\n").split(b"\n\n"):
        head, mark, data = event.rpartition(b"data: ")
        if b'"response"' in data:
            fields = orjson.loads(data)
            if isinstance(fields.get("response"), dict):
                fields["response"] |= amendments
                data = orjson.dumps(fields)
        events.append(head + mark + data + b"\n\n")
    return b"".join(events)
