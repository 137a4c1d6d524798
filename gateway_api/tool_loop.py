"""A request whose tools the gateway runs: the model is asked, its calls are run, and it is asked
again with their results, until it calls nothing or something the gateway does not run.

A turn is run whole or not at all. One that calls a tool of the caller's own too is returned as the
model made it, and so is the one that would be a round too many, or comes too late; the caller sees
every call of it, and none was run. Where the caller sends such a turn back with its own results,
what is missing is run first (`_resume`). All of it is one request: one line in the ledger, one
admission, one answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamFailed
from chat.folding import usage_fields
from chat.requests import ChatRequest, Message, ToolCall
from chat.types import Batch, ChatChunk, Reply, TokensDetails, Usage
from gateway_api.exchange import Exchange
from gateway_api.tool_runs import ServerTools, replayable, run_all
from gateway_api.tool_turns import Said, StreamedTurn, opening, said_in
from usage.lines import Spent

RUNS_FOR_S = 300.0
"""From its first call on, a request runs tools for no longer than this."""
MAX_ADDED = 16 * 1024 * 1024
"""Bytes of calls and results: beyond any model's window, and all of it is held and sent again."""
BETWEEN_TURNS = "\n\n"


async def complete(exchange: Exchange, tools: ServerTools) -> Reply:
    """The whole answer. Raises GatewayError."""
    loop = _ToolLoop(exchange, tools)
    with loop.running_once():
        await loop.resume()
        while True:
            reply = await exchange.dispatch.complete()
            exchange.read_reply(reply)
            completion = orjson.loads(reply.body)
            said = said_in(completion)
            if not loop.runs(said):
                return loop.answered(reply, completion)
            await loop.run(said)


async def stream(exchange: Exchange, tools: ServerTools) -> AsyncGenerator[Batch]:
    """The answer as it comes: of every turn what can be seen at once, with one finish and one
    usage at the end. The first batch comes with the first turn's first good chunk."""
    loop = _ToolLoop(exchange, tools)
    with loop.running_once():
        await loop.resume()
        first = True
        while True:
            turn = loop.turn(first=first)
            async with aclosing(exchange.dispatch.stream()) as batches:
                async for batch in batches:
                    exchange.read_batch(batch)
                    chunks = turn.feed(batch)
                    if first and batch.chunks and not chunks:
                        chunks = [opening(batch.chunks[0])]
                    if chunks:
                        first = False
                        loop.note_text(chunks)
                        yield Batch(chunks=chunks)
            said = turn.said()
            if not loop.runs(said):
                yield Batch(chunks=loop.ending(turn, said))
                return
            await loop.run(said)


class _ToolLoop:
    """What has been said and run so far."""

    def __init__(self, exchange: Exchange, tools: ServerTools) -> None:
        request = exchange.call.request
        assert isinstance(request, ChatRequest), "only chats call tools"
        self._exchange = exchange
        self._tools = tools
        self._request = request
        self._rounds_left = request.server_rounds
        self._deadline: float | None = None
        self._added: list[dict[str, Any]] = []
        self._texts: list[Any] = []
        self._shown = False

    @property
    def _holds_text(self) -> bool:
        """Whether an answer in a format would be spoilt by what is said before it."""
        wanted = self._request.params.response_format
        return wanted is not None and wanted.type != "text"

    @contextmanager
    def running_once(self) -> Iterator[None]:
        """Tells the caller's client not to try again what failed after a tool was run: it would be
        run twice."""
        try:
            yield
        except GatewayError as error:
            if self._added:
                error.should_retry = False
            raise

    def runs(self, said: Said) -> bool:
        """Whether a turn is run here, and the model asked again."""
        if self._rounds_left < 1 or self._seconds_left() <= 0 or self._size_added() > MAX_ADDED:
            return False
        return said.calls_only(self._tools.names)

    async def run(self, said: Said) -> None:
        """Runs a turn's calls and has the next one asked for."""
        calls = replayable(said.calls, taken=_call_ids(self._request.params.messages))
        message = {**said.message, "tool_calls": calls}
        self._exchange.end_round()
        self._texts.append(message.get("content"))
        self._rounds_left -= 1
        results = await self._run_calls(calls)
        self._go_on([message, *results])

    async def resume(self) -> None:
        """Runs what a turn that was returned to the caller still lacks, where the caller has
        answered all other calls of it."""
        missing = _unanswered(self._request.params.messages)
        if not missing or not all(
            call.function and call.function.name in self._tools.names for call in missing
        ):
            return
        self._exchange.resting = True
        calls = [msgspec.to_builtins(call) for call in missing]
        self._go_on(await self._run_calls(calls))

    async def _run_calls(self, calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._deadline is None:
            self._deadline = time.monotonic() + RUNS_FOR_S
        seconds, started = self._seconds_left(), time.perf_counter()
        told = await run_all(calls, self._tools, seconds=seconds, publish=self._exchange.publish)
        self._exchange.dispatch.waited_s += time.perf_counter() - started
        return told

    def _seconds_left(self) -> float:
        return RUNS_FOR_S if self._deadline is None else self._deadline - time.monotonic()

    def _size_added(self) -> int:
        return self._request.size - self._exchange.call.request.size

    def _go_on(self, messages: list[dict[str, Any]]) -> None:
        self._added += messages
        self._request = _continued(self._request, messages)
        self._exchange.begin_round(self._request)

    # --- what the caller gets -----------------------------------------------------------------

    def turn(self, *, first: bool) -> StreamedTurn:
        lead = BETWEEN_TURNS if self._shown else ""
        return StreamedTurn(self._tools.names, first=first, holds_text=self._holds_text, lead=lead)

    def note_text(self, chunks: Sequence[ChatChunk]) -> None:
        self._shown = self._shown or any(
            choice.delta.content for chunk in chunks for choice in chunk.choices
        )

    def ending(self, turn: StreamedTurn, said: Said) -> list[ChatChunk]:
        """What was held back, the finish and the usage of all rounds."""
        finish = turn.finish(self._exchange.finish_reason)
        finish.tool_messages = self._added or None
        usage = ChatChunk(choices=[], id=finish.id, usage=self._usage())
        return [*turn.rest(), finish, usage]

    def answered(self, reply: Reply, completion: dict[str, Any]) -> Reply:
        """The last turn's completion, made the answer to it all."""
        if not self._added:
            return reply
        usage = completion["usage"] = usage_fields(self._usage())
        completion["tool_messages"] = self._added
        message = completion["choices"][0]["message"]
        before = [text for text in self._texts if text and isinstance(text, str)]
        said = message.get("content") or ""
        if before and isinstance(said, str) and not self._holds_text:
            message["content"] = BETWEEN_TURNS.join([*before, *filter(None, [said])])
        return Reply(
            body=orjson.dumps(completion),
            finish_reason=reply.finish_reason,
            usage=msgspec.convert(usage, Usage),
            text_bytes=reply.text_bytes,
        )

    def _usage(self) -> Usage:
        if self._exchange.earlier is None and self._exchange.usage is not None:
            return self._exchange.usage
        return _usage_of(self._exchange.total())


def _usage_of(spent: Spent) -> Usage:
    counts = spent.counts
    return Usage(
        prompt_tokens=counts.input,
        completion_tokens=counts.output,
        total_tokens=counts.input + counts.output,
        prompt_tokens_details=TokensDetails(
            cached_tokens=counts.cached, cache_write_tokens=counts.cache_write or None
        ),
        completion_tokens_details=TokensDetails(reasoning_tokens=counts.reasoning),
        estimated=True if spent.estimated else msgspec.UNSET,
    )


def _unanswered(messages: Sequence[Message]) -> list[ToolCall]:
    """The calls of the last turn that no message answers, where nothing else was said since."""
    answered: set[str | None] = set()
    for message in reversed(messages):
        if message.role == "tool":
            answered.add(message.tool_call_id)
            continue
        calls = message.tool_calls if message.role == "assistant" else None
        return [call for call in calls or () if call.id not in answered]
    return []


def _call_ids(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        for call in message.tool_calls or ():
            yield call.id


def _continued(request: ChatRequest, messages: list[dict[str, Any]]) -> ChatRequest:
    """The request with more said. A choice that was forced is free from now on: forced again, the
    model could never do anything but call."""
    body = {**request.body, "messages": [*request.body["messages"], *messages]}
    choice = _freed(request.params.tool_choice)
    if "tool_choice" in body:
        body["tool_choice"] = choice
    try:
        typed = msgspec.convert(messages, list[Message])
    except msgspec.ValidationError as error:
        raise UpstreamFailed(f"The provider's answer cannot be gone on from: {error}.") from None
    params = msgspec.structs.replace(
        request.params, messages=[*request.params.messages, *typed], tool_choice=choice
    )
    size = request.size + len(orjson.dumps(messages))
    return replace(request, params=params, body=body, size=size)


def _freed(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(choice, dict):
        allowed = choice.get("allowed_tools")
        if isinstance(allowed, dict):
            return {**choice, "allowed_tools": {**allowed, "mode": "auto"}}
        return "auto"
    return "auto" if choice == "required" else choice
