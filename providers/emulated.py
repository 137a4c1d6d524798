"""One request at one target that lacks what it asks for: the adapter, with emulations around it.

Each further asking counts as an attempt. The tokens of an answer that was thrown away were billed
upstream: they are kept apart (`Tally.spent`) and added to those of the answer that is given.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamFailed
from chat.folding import unfold, usage_fields
from chat.ndjson import UNREADABLE
from chat.requests import ChatRequest
from chat.types import Batch, ChatChunk, Reply, Usage, add_usage, encode, estimate_usage
from providers.adapters.base import ChatAdapter
from providers.emulation.emulation import AskAgain, Emulation, Restorer, rewritten

_decode_chunks = msgspec.json.Decoder(list[ChatChunk]).decode


@dataclass(frozen=True, slots=True)
class Validation:
    """An answer that would not do: the attempt that gave it, counted from 1, and why."""

    attempt: int
    error: str


class Tally(Protocol):
    """Where further askings are counted, and what they cost."""

    attempts: int
    spent: Usage | None

    def refuse(self, validation: Validation) -> None:
        """Takes note of an answer, or a part of one, that would not do."""


@dataclass(slots=True)
class Emulated:
    """Asks `adapter` what `emulations` make of `request`, and restores what it answers."""

    adapter: ChatAdapter
    emulations: Sequence[Emulation]
    request: ChatRequest
    tally: Tally
    prepared: ChatRequest = field(init=False)
    """What the adapter is asked first."""

    def __post_init__(self) -> None:
        self.prepared = self.request
        for emulation in self.emulations:
            self.prepared = emulation.prepare(self.prepared)

    async def complete(self) -> Reply:
        """The whole answer. Raises GatewayError."""
        if not self.emulations:
            return await self.adapter.complete(self.request)
        return await self._complete(self.prepared)

    async def _complete(self, request: ChatRequest) -> Reply:
        while True:
            reply = await self.adapter.complete(request)
            usage = reply.usage or estimate_usage(request.size, reply.text_bytes)
            try:
                return _with_usage(self._restored(reply), self.tally.spent, usage)
            except AskAgain as refusal:
                self._discard(usage, refusal.error)
                request = refusal.continued(request)
            except GatewayError as error:
                self._discard(usage, error.message)
                raise
            self.tally.attempts += 1

    def _restored(self, reply: Reply) -> Reply:
        for emulation in reversed(self.emulations):
            reply = emulation.restore(reply)
        self._take_notes()
        return reply

    def _take_notes(self) -> None:
        for emulation in self.emulations:
            for error in emulation.take_notes():
                self._refuse(error)

    def _refuse(self, error: str) -> None:
        self.tally.refuse(Validation(self.tally.attempts, error))

    def _discard(self, usage: Usage, error: str) -> None:
        self._refuse(error)
        self.tally.spent = add_usage(self.tally.spent, usage)

    def stream(self) -> AsyncGenerator[Batch]:
        """The answer as it comes, or in one batch where an emulation needs it whole first."""
        return self._stream() if self.emulations else self.adapter.stream(self.request)

    async def _stream(self) -> AsyncGenerator[Batch]:
        if any(emulation.needs_whole for emulation in self.emulations):
            yield _as_batch(await self._complete(_unstreamed(self.prepared)))
            return
        chain = _Chain([emulation.begin() for emulation in reversed(self.emulations)])
        chain.spent = self.tally.spent
        async with aclosing(self.adapter.stream(self.prepared)) as batches:
            async for batch in batches:
                if (restored := chain.feed(batch)) is not None:
                    yield restored
                if chain.failure is not None:
                    break
        if chain.failure is None and (restored := chain.finish()) is not None:
            yield restored
        if chain.failure is None:
            self._take_notes()
        else:
            usage = chain.usage or estimate_usage(self.prepared.size, chain.text_bytes)
            yield Batch([ChatChunk(choices=[], usage=add_usage(chain.spent, usage))])
            self._discard(usage, chain.failure.message)
            raise chain.failure


class _Chain:
    """The restorers of one stream, each fed what the one before it gives."""

    def __init__(self, restorers: Sequence[Restorer]) -> None:
        self._restorers = restorers
        self.failure: GatewayError | None = None
        self.usage: Usage | None = None
        self.spent: Usage | None = None
        self.text_bytes = 0

    def feed(self, batch: Batch) -> Batch | None:
        for chunk in batch.chunks:
            self._note(chunk)
        return self._through(batch, 0)

    def finish(self) -> Batch | None:
        """What the restorers held back, in one batch."""
        chunks: list[ChatChunk] = []
        for at, restorer in enumerate(self._restorers):
            last = restorer.finish()
            self.failure = self.failure or restorer.failure
            if last is not None and (shown := self._through(last, at + 1)) is not None:
                chunks += shown.chunks
        return Batch(chunks) if chunks else None

    def _through(self, batch: Batch | None, at: int) -> Batch | None:
        for restorer in self._restorers[at:]:
            if batch is None:
                return None
            batch = restorer.feed(batch)
            self.failure = self.failure or restorer.failure
        return batch

    def _note(self, chunk: ChatChunk) -> None:
        if chunk.usage is not None:
            self.usage = chunk.usage
            chunk.usage = add_usage(self.spent, chunk.usage)
        for choice in chunk.choices:
            delta = choice.delta
            self.text_bytes += len(delta.content or "") + len(delta.reasoning_content or "")


def _with_usage(reply: Reply, spent: Usage | None, usage: Usage) -> Reply:
    if spent is None:
        return reply
    usage = add_usage(spent, usage)
    body = {**orjson.loads(reply.body), "usage": usage_fields(usage)}
    return msgspec.structs.replace(reply, body=orjson.dumps(body), usage=usage)


def _unstreamed(request: ChatRequest) -> ChatRequest:
    body = {
        name: value
        for name, value in request.body.items()
        if name not in ("stream", "stream_options")
    }
    return rewritten(request, body)


def _as_batch(reply: Reply) -> Batch:
    """A whole answer in chunks, the usage last."""
    try:
        chunks = _decode_chunks(encode(unfold(orjson.loads(reply.body))))
    except (TypeError, ValueError, *UNREADABLE):
        raise UpstreamFailed("The provider's answer is a completion of an unknown shape.") from None
    return Batch([*chunks, ChatChunk(choices=[], usage=reply.usage)])
