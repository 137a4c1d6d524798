"""Finds out by asking what a model can do: one small request a capability, through its adapter.

    a finding    from
    True         the capability showed in the answer
    False        the model, or its server, refused the request or ignored what it asked for
    unknown      nobody answered, or the answer was cut off: what was known stays

The requests are the same whichever provider it is, so that a finding says the same everywhere.
`audio` and `reasoning` are not measured: both take more than a small request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
import orjson

from chat.errors import (
    GatewayError,
    InvalidRequest,
    UnsupportedEndpoint,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from chat.requests import ChatParams, ChatRequest, EmbeddingsParams, EmbeddingsRequest
from chat.types import Batch, Usage
from providers.adapters.base import ChatAdapter
from providers.capabilities import Capabilities
from providers.probe_requests import (
    COLOURS,
    TOOL,
    Answer,
    Fields,
    Schema,
    json_request,
    parallel_request,
    plain_request,
    schema_request,
    system_request,
    tool_request,
    vector_length,
    vision_request,
)

MAX_REQUESTS = 22
"""Eleven questions, each asked twice at worst (see `_FAULTS`)."""
ANSWER_TOKENS = 200
THINKING_TOKENS = 1500
"""Most tokens of one answer, and of one from a model that thinks before it speaks: a limit that
ends the thought measures nothing. Such a model takes `max_completion_tokens` only, or comes to no
end of a plain greeting."""
PROMPT_TOKENS = 400
"""Of one request. The picture of `vision` may come to some 3,000 more on models that scale every
picture up."""
ONE_S, ALL_S = 30.0, 180.0
"""Seconds that one request and all of them may take."""
MAX_EVIDENCE = 200

_REFUSALS = (UpstreamRejected, UnsupportedEndpoint, InvalidRequest)
_FAULTS = (500, 501)
"""What some servers answer to a feature they lack, where others say 400: a refusal when it comes
twice in a row from a model that answered a plain question before."""

Question = Callable[[], Awaitable[str | None]]
"""Returns the evidence that a capability is there, or None for no finding. Raises _Lacking where
it is not, and GatewayError."""


@dataclass(slots=True)
class Asked:
    """One request of a probe, for the ledger."""

    capability: str
    started_at: float
    """Seconds since 1970."""
    size: int
    """Bytes of the request."""
    stream: bool = False
    duration_ms: int = 0
    answered: bool = False
    usage: Usage | None = None
    error: GatewayError | None = None


@dataclass(slots=True)
class Findings:
    """`flags` holds what is known now, and `evidence` a sentence on each; `stopped` says why not
    everything was asked."""

    flags: dict[str, bool] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    stopped: str | None = None

    def note(self, capability: str, flag: bool, text: str) -> None:
        # A model's words: no line breaks, and no NUL, which Postgres does not store.
        plain = "".join(each if each.isprintable() else " " for each in text[:MAX_EVIDENCE])
        self.flags[capability] = flag
        self.evidence[capability] = plain


class _Lacking(Exception):
    """The capability is not there; the message is the evidence."""


class _Unknown(Exception):
    """Nothing was found out, and asking on would find out no more."""


async def probe(adapter: ChatAdapter) -> Findings:
    """What the adapter's model can do. Never raises for what an upstream does.

    At most MAX_REQUESTS requests, each of at most PROMPT_TOKENS and ANSWER_TOKENS (or
    THINKING_TOKENS) tokens, and ALL_S seconds.
    """
    asker = _Asker(adapter)
    try:
        async with asyncio.timeout(ALL_S):
            await asker.ask_all()
    except _Unknown as reason:
        asker.findings.stopped = str(reason)
    except TimeoutError:
        asker.findings.stopped = f"It took more than {ALL_S:g} s."
    return asker.findings


class _Asker:
    """One probe on its way."""

    def __init__(self, adapter: ChatAdapter) -> None:
        self.findings = Findings()
        self._given = adapter
        self._adapter = self._able(Capabilities())
        self._limit: Fields = {"max_tokens": ANSWER_TOKENS}
        self._no_chat: GatewayError | None = None

    def _able(self, capabilities: Capabilities) -> ChatAdapter:
        """The adapter, told that its model can do all this: it must not leave out what is asked."""
        endpoint = replace(self._given.endpoint, capabilities=capabilities)
        return type(self._given)(endpoint, self._given.http)

    async def ask_all(self) -> None:
        await self._plain()
        if self._no_chat is None:
            for capability, question in self._questions():
                await self._settle(capability, question)
        await self._settle("embeddings", self._embeddings)
        if self._no_chat is not None:
            self._settle_without_chat(self._no_chat)

    def _questions(self) -> Iterator[tuple[str, Question]]:
        yield "streaming_usage", self._streaming_usage
        yield "streaming", self._streaming
        yield "system_role", self._system_role
        yield "tools", self._tools
        yield "tool_choice", self._tool_choice
        yield "parallel_tools", self._parallel_tools
        yield "structured_output", self._structured_output
        yield "json_mode", self._json_mode
        yield "vision", self._vision

    async def _plain(self) -> None:
        """Whether the model chats at all, and which limit it takes."""
        try:
            answer = await self._complete("chat", plain_request())
            if answer.cut_off:
                self._limit = {"max_tokens": THINKING_TOKENS}
        except _REFUSALS as error:
            if error.param != "max_tokens":
                self._no_chat = error
                return
            # OpenAI's reasoning models take the newer name only.
            self._limit = {"max_completion_tokens": THINKING_TOKENS}
            try:
                await self._complete("chat", plain_request())
            except _REFUSALS as again:
                self._no_chat = again
            except GatewayError as failure:
                raise _Unknown(failure.message) from None
        except GatewayError as error:
            raise _Unknown(error.message) from None

    def _settle_without_chat(self, error: GatewayError) -> None:
        """A model that embeds and does not chat is known; one that does neither may not exist."""
        if not self.findings.flags.get("embeddings"):
            self.findings.flags.clear()
            self.findings.evidence.clear()
            raise _Unknown(error.message)
        for capability, _ in self._questions():
            self.findings.note(capability, False, f"It answers no chat: {error.message}")

    async def _settle(self, capability: str, question: Question) -> None:
        try:
            evidence = await self._with_second_try(question)
        except _Lacking as lack:
            self.findings.note(capability, False, str(lack))
        except _REFUSALS as error:
            self.findings.note(capability, False, f"Refused: {error.message}")
        except GatewayError as error:
            if not _is_fault(error):
                raise _Unknown(f"At {capability}: {error.message}") from None
            self.findings.note(capability, False, f"Failed twice: {error.message}")
        else:
            if evidence is not None:
                self.findings.note(capability, True, evidence)

    async def _with_second_try(self, question: Question) -> str | None:
        try:
            return await question()
        except GatewayError as error:
            if not _is_fault(error):
                raise
        return await question()

    # --- one capability each ------------------------------------------------------------------

    async def _streaming_usage(self) -> str | None:
        options = {"stream_options": {"include_usage": True}}
        pieces, usage = await self._stream("streaming_usage", plain_request() | options)
        self.findings.note("streaming", True, f"It streamed {pieces} pieces.")
        if usage is None:
            raise _Lacking("The stream ended without a count of its tokens.")
        return f"The stream ended with a count of {usage.prompt_tokens} tokens in."

    async def _streaming(self) -> str | None:
        if "streaming" in self.findings.flags:
            return None
        self._adapter = self._able(Capabilities(streaming_usage=False))
        pieces, _ = await self._stream("streaming", plain_request())
        return f"It streamed {pieces} pieces."

    async def _system_role(self) -> str | None:
        await self._complete("system_role", system_request())
        return "It took a system message."

    async def _tools(self) -> str | None:
        answer = await self._complete("tools", tool_request(), needs="tools")
        if calls := answer.calls():
            return f"It called {TOOL} with {calls[0]}"
        if answer.cut_off:
            return None
        raise _Lacking(f"The tool was offered and asked for, and it said: {answer.text}")

    async def _tool_choice(self) -> str | None:
        self._require_tools()
        choice = {"tool_choice": {"type": "function", "function": {"name": TOOL}}}
        request = tool_request("Tell me about the weather in Paris.") | choice
        answer = await self._complete("tool_choice", request, needs="tool_choice")
        if calls := answer.calls():
            return f"It called the tool it was told to, with {calls[0]}"
        if answer.cut_off:
            return None
        raise _Lacking(f"The tool was demanded, and it said: {answer.text}")

    async def _parallel_tools(self) -> str | None:
        self._require_tools()
        calls = (await self._complete("parallel_tools", parallel_request())).calls()
        # One call after the other is an answer too, and says nothing of what it can do.
        return f"It made {len(calls)} calls at once." if len(calls) > 1 else None

    def _require_tools(self) -> None:
        if self.findings.flags.get("tools") is False:
            raise _Lacking("It uses no tools.")

    async def _structured_output(self) -> str | None:
        answer = await self._complete(
            "structured_output", schema_request(), needs="response_format"
        )
        try:
            msgspec.json.decode(answer.text, type=Schema)
        except msgspec.DecodeError:
            if answer.cut_off:
                return None
            raise _Lacking(f"The answer does not fit the schema: {answer.text}") from None
        return f"It kept to a schema that its prompt does not tell: {answer.text}"

    async def _json_mode(self) -> str | None:
        answer = await self._complete("json_mode", json_request(), needs="response_format")
        try:
            msgspec.json.decode(answer.text, type=dict)
        except msgspec.DecodeError:
            if answer.cut_off:
                return None
            raise _Lacking(f"The answer is not one JSON object: {answer.text}") from None
        return f"It gave a JSON object and nothing after it: {answer.text}"

    async def _vision(self) -> str | None:
        answer = await self._complete("vision", vision_request())
        if all(colour in answer.text.lower() for colour in COLOURS):
            return f"It named the colours of a picture: {answer.text}"
        if answer.cut_off:
            return None
        raise _Lacking(f"It was shown {' and '.join(COLOURS)}, and said: {answer.text}")

    async def _embeddings(self) -> str | None:
        fields = {"model": self._adapter.endpoint.model, "input": "hello"}
        params = EmbeddingsParams(input=fields["input"], model=fields["model"])
        size = len(orjson.dumps(fields))
        async with self._noted("embeddings", size) as note:
            reply = await self._adapter.embed(EmbeddingsRequest(params, fields, size))
            note.usage = reply.usage
        length = vector_length(reply)
        if length is None:
            raise _Lacking("The answer holds no vector.")
        return f"It gave a vector of {length} numbers."

    # --- asking -------------------------------------------------------------------------------

    async def _complete(self, capability: str, fields: Fields, *, needs: str = "") -> Answer:
        """Raises _Lacking where the adapter could not pass the field `needs` on."""
        request = self._request(fields)
        async with self._noted(capability, request.size) as note:
            reply = await self._adapter.complete(request)
            note.usage = reply.usage
        if needs in request.dropped:
            raise _Lacking(f"Providers of this kind take no {needs}.")
        return Answer(reply)

    async def _stream(self, capability: str, fields: Fields) -> tuple[int, Usage | None]:
        """How many pieces of an answer came, and its usage."""
        request = self._request(fields | {"stream": True})
        pieces = 0
        async with (
            self._noted(capability, request.size, stream=True) as note,
            aclosing(self._adapter.stream(request)) as batches,
        ):
            async for batch in batches:
                pieces += _pieces(batch)
                for chunk in batch.chunks:
                    note.usage = chunk.usage or note.usage
        if not pieces:
            raise _Lacking("The stream was empty.")
        return pieces, note.usage

    def _request(self, fields: Fields) -> ChatRequest:
        body = {"model": self._adapter.endpoint.model, **fields, **self._limit}
        params = msgspec.convert(body, ChatParams)
        return ChatRequest(params=params, body=body, size=len(orjson.dumps(body)))

    @asynccontextmanager
    async def _noted(
        self, capability: str, size: int, *, stream: bool = False
    ) -> AsyncGenerator[Asked]:
        """One request, within its time, on the list for the ledger whatever becomes of it."""
        note = Asked(capability, started_at=time.time(), size=size, stream=stream)
        self.findings.asked.append(note)
        started = time.monotonic()
        try:
            async with asyncio.timeout(ONE_S):
                yield note
            note.answered = True
        except TimeoutError:
            note.error = UpstreamTimeout(f"No answer within {ONE_S:g} s.")
            raise note.error from None
        except GatewayError as error:
            note.error = error
            raise
        finally:
            note.duration_ms = round((time.monotonic() - started) * 1000)


def _is_fault(error: GatewayError) -> bool:
    return isinstance(error, UpstreamError) and error.upstream_status in _FAULTS


def _pieces(batch: Batch) -> int:
    """Chunks with text in them; a model that thinks aloud shows that first."""
    return sum(
        bool(choice.delta.content or choice.delta.reasoning_content or choice.delta.reasoning)
        for chunk in batch.chunks
        for choice in chunk.choices
    )
