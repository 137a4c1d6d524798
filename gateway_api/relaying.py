"""The story of a relayed request: passed on as it is, its answer passed back as it comes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from chat.relays import RelayRequest, usage_told
from chat.types import Usage
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer
from gateway_api.exchange import Exchange
from providers.adapters.relayed import RelayedReply

WHOLE = 1 << 20
"""Answers up to this size are read whole, so that their cost can stand in a header."""
_TAIL = 32 * 1024
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_HARMLESS = re.compile(
    r"(application/(json|jsonl|x-ndjson|octet-stream|pdf)|text/(plain|event-stream|vtt|csv)"
    r"|(audio|video)/[a-z0-9.+-]+|image/(png|jpeg|webp|gif))(;\s*[a-z0-9-]+=\"?[a-z0-9._-]+\"?)*",
    re.IGNORECASE,
)


async def relay(exchange: Exchange, request: RelayRequest) -> AnyAnswer:
    """The upstream's answer. Raises GatewayError until its head is here; what fails later breaks
    the caller's connection off, because nothing else says so in every format."""
    relayed = _Relayed(exchange, request)
    pieces = relayed.pieces()
    first = await anext(pieces)
    content_type = relayed.content_type
    if not relayed.is_small:
        headers = [*exchange.headers(), *_safety(content_type)]
        answer = StreamAnswer(first, pieces, headers=headers, content_type=content_type)
        answer.status = relayed.status
        return answer
    async with aclosing(pieces):
        body = first + b"".join([piece async for piece in pieces])
    headers = [*exchange.headers(), *_safety(content_type)]
    return Answer(body, status=relayed.status, headers=headers, content_type=content_type)


def _safety(content_type: str) -> list[tuple[str, str]]:
    """What others have uploaded may come back here, and staff are signed in to this origin: it is
    shown as nothing but what it says it is, and not as a page."""
    headers = [("x-content-type-options", "nosniff")]
    if not content_type.startswith(("application/json", "text/event-stream")):
        headers.append(("content-disposition", "attachment"))
    return headers


class _Relayed:
    """One answer on its way through; the head is known once the first piece is."""

    def __init__(self, exchange: Exchange, request: RelayRequest) -> None:
        self._exchange = exchange
        self._request = request
        self.status = 200
        self.content_type = "application/octet-stream"
        self.is_small = False

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body; the first piece is empty where there is none. The ledger's line is closed
        before this ends, also when the caller leaves or the upstream fails."""
        with self._exchange as exchange:
            reply = await exchange.dispatch.answer(lambda adapter: adapter.relay(self._request))
            try:
                self._read_head(reply)
                meter = _Meter(self.content_type)
                piece = await reply.next_bytes()
                meter.add(piece)
                yield piece
                while piece and (piece := await reply.next_bytes()):
                    meter.add(piece)
                    yield piece
                exchange.read_told(meter.usage())
            finally:
                reply.close()

    def _read_head(self, reply: RelayedReply) -> None:
        self.status = reply.status
        if _HARMLESS.fullmatch(reply.content_type):
            self.content_type = reply.content_type
        self.is_small = reply.length is not None and reply.length <= WHOLE


class _Meter:
    """Reads the `usage` of an answer that is passed on: of a whole one where it is not too long,
    else of what stands at its end."""

    def __init__(self, content_type: str) -> None:
        media_type = content_type.partition(";")[0].strip().lower()
        self._is_stream = media_type == "text/event-stream"
        self._reads = self._is_stream or media_type == "application/json"
        self._kept = bytearray()
        self._is_cut = False

    def add(self, piece: bytes) -> None:
        if not self._reads:
            return
        self._kept += piece
        if len(self._kept) > (2 * _TAIL if self._is_cut or self._is_stream else WHOLE):
            del self._kept[:-_TAIL]
            self._is_cut = True

    def usage(self) -> Usage | None:
        if not self._reads:
            return None
        if self._is_stream:
            return self._usage_of_last_event()
        if self._is_cut:
            found = list(_USAGE.finditer(self._kept))
            return usage_told(_first_object(self._kept[found[-1].end() :])) if found else None
        return usage_told(_field(self._kept, "usage"))

    def _usage_of_last_event(self) -> Usage | None:
        for line in reversed(self._kept.splitlines()):
            if line.startswith(b"data:") and (usage := usage_told(_field(line[5:], "usage"))):
                return usage
        return None


def _field(document: bytes | bytearray, name: str) -> Any:
    try:
        fields = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    return fields.get(name) if isinstance(fields, dict) else None


def _first_object(text: bytes | bytearray) -> Any:
    """The object that `text` begins with, whatever follows it."""
    end = 0
    while (end := text.find(b"}", end) + 1) > 0:
        try:
            return orjson.loads(text[:end])
        except orjson.JSONDecodeError:
            continue
    return None
