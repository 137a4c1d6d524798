"""OpenAI's chat completions, and every server that speaks them.

Same wire in and out: the request goes on as it came but for model, credential and stream options;
the answer's bytes come back untouched where they are right (`openai_stream`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
import orjson

from chat.errors import UpstreamFailed, UpstreamUnsupported
from chat.ndjson import UNREADABLE
from chat.relays import Relay, RelayRequest, forwardable
from chat.requests import ChatRequest, EmbeddingsRequest
from chat.text_completions import TextRequest
from chat.types import Batch, ModelInfo, Reply
from providers.adapters import openai_responses
from providers.adapters.base import ChatAdapter, Endpoint
from providers.adapters.open_stream import OpenStream, read_batches
from providers.adapters.openai_completion import read_completion, whole_as_batch
from providers.adapters.openai_dialect import leave_extensions_out, narrow
from providers.adapters.openai_embeddings import read_embeddings
from providers.adapters.openai_errors import error_of, read_error
from providers.adapters.openai_models import MAX_LISTING, read_models
from providers.adapters.openai_relay import ask_for_relay
from providers.adapters.openai_stream import ChatStreamReader
from providers.adapters.openai_text import (
    TextStreamReader,
    lacks_endpoint,
    read_text,
    whole_text_as_batch,
)
from providers.adapters.relayed import RelayedReply
from providers.http import HttpClient, HttpReply

_NOTHING_TO_FORGET = (400, 404, 405, 501)
"""It is gone, or the upstream keeps none: what an unknown id is answered with differs."""
_ASK_AGAIN_AFTER_S = 300.0
"""For so long an upstream that turned out to lack the Responses API is not asked for it again."""


class _Counted(msgspec.Struct):
    input_tokens: int


_decode_counted = msgspec.json.Decoder(_Counted).decode


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
        body = forwardable(request.body, request.dropped)
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

    def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        return read_batches(partial(self._open_stream, request), self.endpoint)

    async def _open_stream(self, request: ChatRequest) -> OpenStream:
        native = await self._ask_responses(request)
        if native is not None:
            return OpenStream(
                native,
                openai_responses.ResponsesReader(self.endpoint),
                partial(openai_responses.whole_as_batch, endpoint=self.endpoint),
            )
        return OpenStream(
            await self._post(self._chat_url, self.payload(request)),
            ChatStreamReader(self.endpoint, hide_usage=not request.wants_usage),
            partial(whole_as_batch, endpoint=self.endpoint),
            keeps_wire=request.wire == self.wire,
        )

    async def _ask_responses(self, request: ChatRequest) -> HttpReply | None:
        """The reply of the upstream's own Responses API to a request on that wire; None where the
        chat completions have to serve it."""
        native = request.native
        if request.wire != "responses" or native is None:
            return None
        if not self.speaks_responses(self.endpoint.options) or self._lacks_responses():
            require_translatable(request)
            return None
        body = forwardable(native, request.dropped)
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
        told = await read_error(reply)
        if openai_responses.is_missing_endpoint(reply.status, told):
            self._without_responses_until = time.monotonic() + _ASK_AGAIN_AFTER_S
            require_translatable(request)
            return None
        raise error_of(reply, told, self.endpoint)

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
            raise error_of(reply, await read_error(reply), self.endpoint)
        reply.close()

    def _lacks_responses(self) -> bool:
        return time.monotonic() < self._without_responses_until

    async def count_input(self, request: ChatRequest) -> int:
        """The tokens of a chat's prompt, as llama.cpp's server and our own tell them."""
        reply = await self._post(f"{self._chat_url}/input_tokens", self.payload(request))
        try:
            return _decode_counted(await self.read_whole(reply)).input_tokens
        except UNREADABLE:
            raise UpstreamFailed("The model's server told no count.") from None

    async def embed(self, request: EmbeddingsRequest) -> Reply:
        if not self.endpoint.capabilities.embeddings:
            return await super().embed(request)
        reply = await self._post(self._embeddings_url, self._forwarded(request))
        return read_embeddings(
            await self.read_whole(reply), self.endpoint, wanted=request.params.encoding_format
        )

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
            source = read_batches(partial(self._text_stream, reply, request), self.endpoint)
        else:
            source = super().stream_text(request)
        async with contextlib.aclosing(source):
            async for batch in source:
                yield batch
        self._has_texts = reply is not None

    async def _text_stream(self, reply: HttpReply, request: TextRequest) -> OpenStream:
        return OpenStream(
            reply,
            TextStreamReader(self.endpoint, hide_usage=not request.wants_usage),
            partial(whole_text_as_batch, endpoint=self.endpoint),
        )

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
        told = await read_error(reply)
        if lacks_endpoint(reply.status, told):
            return None
        raise error_of(reply, told, self.endpoint)

    async def _post(self, url: str, payload: dict[str, Any]) -> HttpReply:
        reply = await self.http.request(
            "POST",
            url,
            headers=self._headers,
            body=orjson.dumps(payload),
            timeouts=self.endpoint.timeouts,
        )
        if reply.status != 200:
            raise error_of(reply, await read_error(reply), self.endpoint)
        return reply

    async def relay(self, request: RelayRequest) -> RelayedReply:
        body = request.body
        if body is not None:
            body = forwardable(body, request.dropped)
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
            raise error_of(reply, await read_error(reply), self.endpoint)
        return read_models(await self.read_whole(reply, limit=MAX_LISTING))


def require_translatable(request: ChatRequest) -> None:
    """Raises UpstreamUnsupported for a request only the caller's own wire can say."""
    if request.native_only is not None:
        raise UpstreamUnsupported(
            "The provider has no Responses API of its own, and this request cannot be said as a "
            "chat completion."
        )


class OpenAICompatibleAdapter(OpenAIAdapter):
    """A row with an address of its own: vLLM, OpenRouter, Groq, llama.cpp, another gateway."""

    kind = "openai-compatible"
    default_base_url: ClassVar[str | None] = None
    needs_key = False
    relays = OpenAIAdapter.relays | {"rerank"}
    takes_extensions = True
