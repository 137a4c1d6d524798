"""OpenAI's chat completions, and every server that speaks them.

Same wire in and out: the request goes on as it came but for model, credential and stream options;
the answer's bytes come back untouched where they are right (`openai_stream`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
import orjson

from chat.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamUnsupported
from chat.folding import unfold
from chat.ndjson import UNREADABLE
from chat.relays import NEVER_FORWARDED, Relay, RelayRequest
from chat.requests import ChatRequest, EmbeddingsRequest
from chat.text_completions import TextRequest
from chat.types import Batch, ChatChunk, ModelInfo, Reply, Usage, encode
from providers.adapters import openai_responses
from providers.adapters.base import ChatAdapter, Endpoint
from providers.adapters.openai_dialect import leave_extensions_out, narrow
from providers.adapters.openai_embeddings import read_embeddings
from providers.adapters.openai_errors import error_from_reply, error_in_band
from providers.adapters.openai_models import MAX_LISTING, read_models
from providers.adapters.openai_relay import ask_for_relay
from providers.adapters.openai_stream import (
    ChatStreamReader,
    legal_finish,
    mend_calls,
    mend_logprobs,
    mend_usage,
    text_of_parts,
)
from providers.adapters.openai_text import (
    TextStreamReader,
    lacks_endpoint,
    read_text,
    whole_text_as_batch,
)
from providers.adapters.relayed import RelayedReply
from providers.http import HttpClient, HttpReply

_END_GRACE_S = 0.5
_NOTHING_TO_FORGET = (400, 404, 405, 501)
"""It is gone, or the upstream keeps none: what an unknown id is answered with differs."""
_ASK_AGAIN_AFTER_S = 300.0
"""For so long an upstream that turned out to lack the Responses API is not asked for it again."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    index: int = 0
    logprobs: dict[str, list[Any] | None] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Completion).decode
_decode_chunks = msgspec.json.Decoder(list[ChatChunk]).decode
_FINISH = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


class OpenAIAdapter(ChatAdapter):
    kind: ClassVar[str] = "openai"
    default_base_url: ClassVar[str | None] = "https://api.openai.com/v1"
    needs_key: ClassVar[bool] = True
    relays: ClassVar[frozenset[Relay]] = frozenset(
        ("moderations", "images", "audio", "files", "batches")
    )
    takes_extensions: ClassVar[bool] = False
    """Whether fields of other wires (marks for a cache, thoughts) may stand in a request. A row of
    a kind where they may says `extensions: false` for a server that refuses them."""

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        super().__init__(endpoint, http)
        base = self._base_url = (endpoint.base_url or self.default_base_url or "").rstrip("/")
        self._chat_url = f"{base}/chat/completions"
        self._models_url = f"{base}/models"
        self._embeddings_url = f"{base}/embeddings"
        self._texts_url = f"{base}/completions"
        self._has_texts = bool(endpoint.options.get("native_completions", True))
        self._headers = {"content-type": "application/json"}
        self._without_responses_until = 0.0
        if endpoint.api_key:
            self._headers["authorization"] = f"Bearer {endpoint.api_key}"

    def payload(self, request: ChatRequest) -> dict[str, Any]:
        """The body that goes upstream."""
        body = self._forwarded(request)
        if request.wire != self.wire and not self.takes_extensions:
            narrow(body, request.dropped)
        elif request.wire != self.wire and self.endpoint.options.get("extensions") is False:
            leave_extensions_out(body, request.dropped)
        return self._with_usage(request, body)

    def _with_usage(
        self, request: ChatRequest | TextRequest, body: dict[str, Any]
    ) -> dict[str, Any]:
        if request.stream and self.endpoint.capabilities.streaming_usage:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body

    def _forwarded(self, request: ChatRequest | EmbeddingsRequest | TextRequest) -> dict[str, Any]:
        body = _without_addresses(request.body, request.dropped)
        body["model"] = self.endpoint.model
        return body

    @classmethod
    def speaks_responses(cls, options: Mapping[str, Any]) -> bool:
        return options.get("responses", cls.kind == "openai") is True

    async def complete(self, request: ChatRequest) -> Reply:
        native = await self._ask_responses(request)
        if native is not None:
            return openai_responses.read_response(await self.read_whole(native), self.endpoint)
        reply = await self._post(self._chat_url, self.payload(request))
        return read_completion(await self.read_whole(reply), self.endpoint)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        native = await self._ask_responses(request)
        if native is not None:
            try:
                async with contextlib.aclosing(
                    openai_responses.read_batches(native, self.endpoint)
                ) as typed:
                    async for events in typed:
                        yield events
                await read_end(native)
            finally:
                native.close()
            return
        reply = await self._post(self._chat_url, self.payload(request))
        try:
            if (reply.headers.get("content-type") or "").startswith("application/json"):
                yield _whole_as_batch(await self.read_whole(reply), self.endpoint)
                return
            reader = ChatStreamReader(self.endpoint, hide_usage=not request.wants_usage)
            same_wire = request.wire == self.wire
            while packet := await reply.next_bytes():
                batch = reader.feed(packet)
                if batch is not None:
                    if not same_wire:
                        batch.wire = None
                    yield batch
                if reader.failure is not None:
                    raise reader.take_failure()
                if reader.done:
                    await read_end(reply)
                    return
            if (batch := reader.finish()) is not None:
                if not same_wire:
                    batch.wire = None
                yield batch
            if reader.failure is not None:
                raise reader.take_failure()
        finally:
            reply.close()

    async def _ask_responses(self, request: ChatRequest) -> HttpReply | None:
        """The reply of the upstream's own Responses API to a request on that wire; None where the
        chat completions have to serve it."""
        native = request.native
        if request.wire != "responses" or native is None:
            return None
        if not self.speaks_responses(self.endpoint.options) or self._lacks_responses():
            require_translatable(request)
            return None
        body = {name: value for name, value in native.items() if name not in NEVER_FORWARDED}
        body["model"] = self.endpoint.model
        reply = await self.http.request(
            "POST",
            self._responses_url,
            headers=self._headers,
            body=orjson.dumps(body),
            timeouts=self.endpoint.timeouts,
        )
        if reply.status == 200:
            return reply
        told = await openai_responses.read_error(reply)
        if openai_responses.is_missing_endpoint(reply.status, told):
            self._without_responses_until = time.monotonic() + _ASK_AGAIN_AFTER_S
            require_translatable(request)
            return None
        raise error_from_reply(
            reply.status,
            told,
            retry_after=reply.headers.get("retry-after"),
            endpoint=self.endpoint,
        )

    @property
    def _responses_url(self) -> str:
        return f"{self._chat_url.removesuffix('/chat/completions')}/responses"

    async def forget_response(self, response_id: str) -> None:
        reply = await self.http.request(
            "DELETE",
            f"{self._responses_url}/{quote(response_id, safe='')}",
            headers=self._headers,
            timeouts=self.endpoint.timeouts,
        )
        if reply.status >= 300 and reply.status not in _NOTHING_TO_FORGET:
            raise await self._error(reply)
        reply.close()

    def _lacks_responses(self) -> bool:
        return time.monotonic() < self._without_responses_until

    async def embed(self, request: EmbeddingsRequest) -> Reply:
        if not self.endpoint.capabilities.embeddings:
            return await super().embed(request)
        reply = await self._post(self._embeddings_url, self._forwarded(request))
        body = await self.read_whole(reply)
        return read_embeddings(body, self.endpoint, wanted=request.params.encoding_format)

    async def complete_text(self, request: TextRequest) -> Reply:
        reply = await self._post_text(request) if self._has_texts else None
        if reply is not None:
            return read_text(await self.read_whole(reply), self.endpoint)
        answer = await super().complete_text(request)
        self._has_texts = False  # the model is there and only chats: it is not asked again
        return answer

    async def stream_text(self, request: TextRequest) -> AsyncGenerator[Batch]:
        reply = await self._post_text(request) if self._has_texts else None
        if reply is not None:
            source = self._read_texts(reply, hide_usage=not request.wants_usage)
        else:
            source = super().stream_text(request)
        async with contextlib.aclosing(source):
            async for batch in source:
                yield batch
        self._has_texts = reply is not None

    async def _read_texts(self, reply: HttpReply, *, hide_usage: bool) -> AsyncGenerator[Batch]:
        try:
            if (reply.headers.get("content-type") or "").startswith("application/json"):
                yield whole_text_as_batch(await self.read_whole(reply), self.endpoint)
                return
            reader = TextStreamReader(self.endpoint, hide_usage=hide_usage)
            while packet := await reply.next_bytes():
                if (batch := reader.feed(packet)) is not None:
                    yield batch
                if reader.failure is not None:
                    raise reader.take_failure()
                if reader.done:
                    await read_end(reply)
                    return
            if (batch := reader.finish()) is not None:
                yield batch
            if reader.failure is not None:
                raise reader.take_failure()
        finally:
            reply.close()

    async def _post_text(self, request: TextRequest) -> HttpReply | None:
        """The answer to a text completion, or None where the upstream has none to give."""
        payload = self._with_usage(request, self._forwarded(request))
        reply = await self.http.request(
            "POST",
            self._texts_url,
            headers=self._headers,
            body=orjson.dumps(payload),
            timeouts=self.endpoint.timeouts,
        )
        if reply.status == 200:
            return reply
        body = await self._error_body(reply)
        if lacks_endpoint(reply.status, body):
            return None
        raise self._told(reply, body)

    async def _post(self, url: str, payload: dict[str, Any]) -> HttpReply:
        reply = await self.http.request(
            "POST",
            url,
            headers=self._headers,
            body=orjson.dumps(payload),
            timeouts=self.endpoint.timeouts,
        )
        if reply.status != 200:
            raise await self._error(reply)
        return reply

    async def _error(self, reply: HttpReply) -> UpstreamError:
        return self._told(reply, await self._error_body(reply))

    async def _error_body(self, reply: HttpReply) -> bytes:
        try:
            return await reply.read(limit=1 << 20)
        except UpstreamError:
            return b""  # the status alone tells enough
        finally:
            reply.close()

    def _told(self, reply: HttpReply, body: bytes) -> UpstreamError:
        return error_from_reply(
            reply.status,
            body,
            retry_after=reply.headers.get("retry-after"),
            endpoint=self.endpoint,
        )

    async def relay(self, request: RelayRequest) -> RelayedReply:
        body = request.body
        if body is not None:
            body = _without_addresses(body, request.dropped)
            if body.get("model") is not None:
                body["model"] = self.endpoint.model
        return await ask_for_relay(
            request,
            body=body,
            base_url=self._base_url,
            headers=self._headers,
            endpoint=self.endpoint,
            http=self.http,
        )

    async def list_models(self) -> list[ModelInfo]:
        reply = await self.http.request(
            "GET", self._models_url, headers=self._headers, timeouts=self.endpoint.timeouts
        )
        if reply.status != 200:
            raise await self._error(reply)
        return read_models(await self.read_whole(reply, limit=MAX_LISTING))


def _without_addresses(body: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    """A copy without NEVER_FORWARDED."""
    if NEVER_FORWARDED.isdisjoint(body):
        return body.copy()
    dropped.update(NEVER_FORWARDED & body.keys())
    return {name: value for name, value in body.items() if name not in NEVER_FORWARDED}


def require_translatable(request: ChatRequest) -> None:
    """Raises UpstreamUnsupported for a request only the caller's own wire can say."""
    if request.native_only is not None:
        raise UpstreamUnsupported(
            "The provider has no Responses API of its own, and this request cannot be said as a "
            "chat completion."
        )


async def read_end(reply: HttpReply) -> None:
    """Reads the few bytes after `[DONE]`, or the connection could not be used again; an upstream
    that keeps it open only loses that."""
    if reply.finish():
        return
    with contextlib.suppress(TimeoutError, GatewayError):
        async with asyncio.timeout(_END_GRACE_S):
            while await reply.next_bytes():
                pass


def read_completion(body: bytes, endpoint: Endpoint) -> Reply:
    """A non-streamed answer. Raises UpstreamFailed for a 200 that holds no completion (M27)."""
    try:
        completion = _decode(body)
        if not body.isascii():
            body.decode()  # what is skipped above is not looked at, and goes to the caller
    except UNREADABLE:
        completion = None
    if completion is None or completion.error is not None or not _is_strict(completion):
        body, completion = _mend_completion(body, endpoint)
    return Reply(
        body=body,
        finish_reason=completion.choices[0].finish_reason,
        usage=completion.usage,
        text_bytes=sum(len(choice.message.content or "") for choice in completion.choices),
    )


def _is_strict(completion: _Completion) -> bool:
    return bool(completion.choices) and all(
        choice.finish_reason in _FINISH for choice in completion.choices
    )


def _mend_completion(body: bytes, endpoint: Endpoint) -> tuple[bytes, _Completion]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFailed("The provider's answer is not JSON.", retryable=True) from None
    if not isinstance(fields, dict):
        raise UpstreamFailed("The provider's answer is not a completion.")
    if fields.get("error") is not None:
        raise error_in_band(fields["error"], endpoint)
    choices = fields.get("choices")
    if not (isinstance(choices, list) and choices and all(map(_has_message, choices))):
        raise UpstreamFailed("The provider's answer holds no completion.")
    for at, choice in enumerate(choices):
        if type(choice.get("index")) is not int:
            choice["index"] = at
        choice["finish_reason"] = legal_finish(choice.get("finish_reason") or None)
        if isinstance(choice["message"].get("content"), list):
            text_of_parts(choice["message"])
        elif not isinstance(choice["message"].get("content"), str | None):
            choice["message"]["content"] = str(choice["message"]["content"])
        for name in ("refusal", "reasoning_content", "reasoning"):
            if not isinstance(choice["message"].get(name), str | None):
                del choice["message"][name]
        mend_calls(choice["message"])
        mend_logprobs(choice)
    mend_usage(fields)
    try:
        body = orjson.dumps(fields)
        return body, _decode(body)
    except (TypeError, *UNREADABLE):  # or nested past what a writer takes
        raise UpstreamFailed("The provider's answer is a completion of an unknown shape.") from None


def _has_message(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


def _whole_as_batch(body: bytes, endpoint: Endpoint) -> Batch:
    """A server that ignores `stream` answers with plain JSON: the same answer, as chunks."""
    reply = read_completion(body, endpoint)
    try:
        chunks = _decode_chunks(encode(unfold(orjson.loads(reply.body))))
    except (TypeError, ValueError, *UNREADABLE):
        raise UpstreamFailed("The provider's answer is a completion of an unknown shape.") from None
    chunks[-1].usage = reply.usage
    return Batch(chunks)


class OpenAICompatibleAdapter(OpenAIAdapter):
    """A row with an address of its own: vLLM, OpenRouter, Groq, llama.cpp, another gateway."""

    kind = "openai-compatible"
    default_base_url: ClassVar[str | None] = None
    needs_key = False
    relays = OpenAIAdapter.relays | {"rerank"}
    takes_extensions = True
