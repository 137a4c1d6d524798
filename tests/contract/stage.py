"""Adapters with an upstream that says what a test has it say, and what comes of asking them."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from chat.errors import GatewayError
from chat.folding import CompletionFolder
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from chat.types import ChatChunk, Reply, Usage, Wire
from providers.adapters.base import ChatAdapter, Endpoint
from providers.http import HttpClient, Timeouts
from providers.registry import adapter_class
from tests.contract.dialects import Answer, Dialect
from tests.contract.kinds import SPEAKS

SECRET = "sk-canary-0123456789abcdef"
MODEL = "a-model"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
PATIENCE = Timeouts(connect=2, first_byte=5, idle=5, total=20)


# --- an upstream whose packets come exactly as they are given -----------------------------------


@dataclass
class Played:
    """A response: its body in the packets it comes in."""

    packets: Sequence[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    closed: bool = False


class PlayedReply:
    """What `HttpReply` is to an adapter. Every packet takes a turn of the loop."""

    def __init__(self, played: Played) -> None:
        self.status, self.headers = played.status, played.headers
        self._played = played
        self._left = list(played.packets)

    async def next_bytes(self) -> bytes:
        await asyncio.sleep(0)
        return self._left.pop(0) if self._left else b""

    async def read(self, *, limit: int = 1 << 30) -> bytes:
        await asyncio.sleep(0)
        packets, self._left = self._left, []
        self.close()
        return b"".join(packets)

    def finish(self) -> bool:
        return not self._left

    def close(self) -> None:
        self._played.closed = True


@dataclass
class Sent:
    """A request as it left."""

    method: str
    url: str
    headers: dict[str, str]
    body: dict[str, Any]


class PlayedHttp:
    """What `HttpClient` is to an adapter; keeps what was asked and what was answered."""

    def __init__(self, play: Callable[[Sent], Played]) -> None:
        self._play = play
        self.sent: list[Sent] = []
        self.played: list[Played] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str],
        body: bytes | None = None,
        timeouts: Timeouts,
    ) -> PlayedReply:
        sent = Sent(method, url, dict(headers), json.loads(body) if body else {})
        self.sent.append(sent)
        played = self._play(sent)
        self.played.append(played)
        await asyncio.sleep(0)
        return PlayedReply(played)


# --- stages -------------------------------------------------------------------------------------


class Stage(ABC):
    """A kind of provider and the caller who asks it."""

    kind: str
    caller: Wire

    @abstractmethod
    def saying(self, answer: Answer) -> ChatAdapter:
        """An adapter whose upstream says this."""

    @abstractmethod
    def failing(self, status: int, message: str, *, retry_after: str | None = None) -> ChatAdapter:
        """An adapter whose upstream answers with this status."""

    @abstractmethod
    def breaking_off(self, answer: Answer) -> ChatAdapter:
        """An adapter whose upstream leaves before it has said how the answer ended."""

    @abstractmethod
    def listing(self, names: list[str]) -> ChatAdapter:
        """An adapter whose upstream has these models."""

    def request(self, *, stream: bool, **fields: Any) -> ChatRequest:
        """What this caller asks. It would be told the usage of a stream."""
        body = {"model": "x", "messages": HELLO, "stream": stream, **fields}
        if stream:
            body.setdefault("stream_options", {"include_usage": True})
        request = parse_chat_request(json.dumps(body).encode())
        request.wire, request.size = self.caller, 200
        if self.caller != "openai":
            dialect = next(each for each in SPEAKS.values() if each.wire == self.caller)
            request.native = dialect.native(stream=stream)
        return request

    def adapter(
        self, http: Any, base_url: str = "http://10.9.8.7:65000", **more: Any
    ) -> ChatAdapter:
        adapter = adapter_class(self.kind)
        assert adapter is not None
        timeouts = more.pop("timeouts", PATIENCE)
        endpoint = Endpoint(base_url, SECRET, MODEL, timeouts, adapter.defaults, **more)
        return adapter(endpoint, cast(HttpClient, http))


class HttpStage(Stage):
    """A kind with an upstream."""

    def __init__(self, kind: str, caller: Wire) -> None:
        self.kind, self.caller = kind, caller
        self.dialect: Dialect = SPEAKS[kind]
        self.http = PlayedHttp(lambda sent: Played([]))

    @property
    def is_native(self) -> bool:
        return self.caller == self.dialect.wire

    def playing(self, play: Callable[[Sent], Played]) -> ChatAdapter:
        self.http = PlayedHttp(play)
        return self.adapter(self.http)

    def streaming(self, packets: Sequence[bytes]) -> ChatAdapter:
        headers = {"content-type": self.dialect.content_type}
        return self.playing(lambda sent: Played(packets, headers=headers))

    def answering(self, body: bytes, status: int = 200, **headers: str) -> ChatAdapter:
        """`headers` are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"content-type": "application/json", **named}
        return self.playing(lambda sent: Played([body], status, named))

    def saying(self, answer: Answer) -> ChatAdapter:
        return self.playing(lambda sent: self.said(sent, answer))

    def said(self, sent: Sent, answer: Answer) -> Played:
        if self.dialect.read(sent.body).streams:
            headers = {"content-type": self.dialect.content_type}
            return Played(self.dialect.stream(answer), headers=headers)
        body = json.dumps(self.dialect.whole(answer)).encode()
        return Played([body], headers={"content-type": "application/json"})

    def failing(self, status: int, message: str, *, retry_after: str | None = None) -> ChatAdapter:
        body = json.dumps(self.dialect.error(message)).encode()
        headers = {} if retry_after is None else {"retry_after": retry_after}
        return self.answering(body, status, **headers)

    def breaking_off(self, answer: Answer) -> ChatAdapter:
        return self.streaming(self.dialect.said(answer))

    def listing(self, names: list[str]) -> ChatAdapter:
        return self.answering(json.dumps(self.dialect.listing(names)).encode())


class FakeStage(Stage):
    """The kind that asks nobody: its scripts stand in the row's options."""

    kind = "fake"
    caller: Wire = "openai"

    def saying(self, answer: Answer) -> ChatAdapter:
        calls = [{"name": call.name, "arguments": call.arguments} for call in answer.calls]
        return self._scripted(reply=answer.text, tool_calls=calls)

    def failing(self, status: int, message: str, *, retry_after: str | None = None) -> ChatAdapter:
        error = {"status": status, "message": message, "retry_after": retry_after}
        return self._scripted(error=error)

    def breaking_off(self, answer: Answer) -> ChatAdapter:
        return self._scripted(reply=answer.text, break_after_chunks=1 + len(answer.words))

    def listing(self, names: list[str]) -> ChatAdapter:
        return self._with_models({name: {} for name in names})

    def _scripted(self, **script: Any) -> ChatAdapter:
        return self._with_models({MODEL: script})

    def _with_models(self, models: dict[str, Any]) -> ChatAdapter:
        http = PlayedHttp(lambda sent: Played([]))
        return self.adapter(http, "", options={"models": models})


# --- asking -------------------------------------------------------------------------------------


@dataclass
class Streamed:
    """What came of a stream, and what ended it."""

    chunks: list[ChatChunk] = field(default_factory=list)
    wire: bytes = b""
    error: GatewayError | None = None

    @property
    def completion(self) -> dict[str, Any]:
        folder = CompletionFolder()
        for chunk in self.chunks:
            folder.add(chunk)
        return folder.completion()

    @property
    def text(self) -> str:
        return "".join(
            choice.delta.content or "" for chunk in self.chunks for choice in chunk.choices
        )

    @property
    def finishes(self) -> list[str]:
        found = (choice.finish_reason for chunk in self.chunks for choice in chunk.choices)
        return [reason for reason in found if reason is not None]

    @property
    def usages(self) -> list[Usage]:
        return [chunk.usage for chunk in self.chunks if chunk.usage is not None]


async def stream(adapter: ChatAdapter, request: ChatRequest) -> Streamed:
    """A stream to its end; only a GatewayError may end it."""
    got = Streamed()
    try:
        async with aclosing(adapter.stream(request)) as batches:
            async for batch in batches:
                got.chunks += batch.chunks
                got.wire += batch.wire or b""
    except GatewayError as error:
        got.error = error
    return got


async def complete(adapter: ChatAdapter, request: ChatRequest) -> Reply | GatewayError:
    """A whole answer, or the one kind of error there may be."""
    try:
        return await adapter.complete(request)
    except GatewayError as error:
        return error


async def ask(adapter: ChatAdapter, request: ChatRequest) -> GatewayError | None:
    """Asks in either way; how it failed."""
    if request.stream:
        return (await stream(adapter, request)).error
    replied = await complete(adapter, request)
    return replied if isinstance(replied, GatewayError) else None


def stages(kinds: Iterable[str] = SPEAKS) -> list[HttpStage]:
    """Every kind with an upstream, asked by a caller on its own wire and by one on another."""
    made = []
    for kind in kinds:
        wire = SPEAKS[kind].wire
        other: Wire = "anthropic" if wire == "openai" else "openai"
        made += [HttpStage(kind, wire), HttpStage(kind, other)]
    return made
