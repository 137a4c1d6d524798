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
from chat.types import Batch, ChatRequest, ModelInfo, Reply, Usage
from providers.adapters import openai_responses
from providers.adapters.base import ChatAdapter, Endpoint
from providers.adapters.openai_dialect import narrow
from providers.adapters.openai_errors import error_from_reply, error_in_band
from providers.adapters.openai_models import MAX_LISTING, read_models
from providers.adapters.openai_stream import (
    ChatStreamReader,
    legal_finish,
    mend_usage,
    text_of_parts,
)
from providers.http import HttpClient, HttpReply

NEVER_FORWARDED = frozenset({"api_key", "api_base", "base_url"})
"""Other gateways' fields for where and as whom to ask: a caller's must never meet ours (M43)."""

_END_GRACE_S = 0.5
_NOTHING_TO_FORGET = (400, 404, 405, 501)
"""It is gone, or the upstream keeps none: what an unknown id is answered with differs."""
_ASK_AGAIN_AFTER_S = 300.0
"""For so long an upstream that turned out to lack the Responses API is not asked for it again."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Completion).decode
_FINISH = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


class OpenAIAdapter(ChatAdapter):
    kind: ClassVar[str] = "openai"
    default_base_url: ClassVar[str | None] = "https://api.openai.com/v1"
    needs_key: ClassVar[bool] = True
    takes_extensions: ClassVar[bool] = False
    """Whether fields of other wires (marks for a cache, thoughts) may stand in a request."""

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        super().__init__(endpoint, http)
        base = (endpoint.base_url or self.default_base_url or "").rstrip("/")
        self._chat_url = f"{base}/chat/completions"
        self._models_url = f"{base}/models"
        self._headers = {"content-type": "application/json"}
        self._without_responses_until = 0.0
        if endpoint.api_key:
            self._headers["authorization"] = f"Bearer {endpoint.api_key}"

    def payload(self, request: ChatRequest) -> dict[str, Any]:
        """The body that goes upstream."""
        body = request.body.copy()
        if not NEVER_FORWARDED.isdisjoint(body):
            request.dropped.update(NEVER_FORWARDED & body.keys())
            body = {name: value for name, value in body.items() if name not in NEVER_FORWARDED}
        if request.wire != self.wire and not self.takes_extensions:
            narrow(body, request.dropped)
        body["model"] = self.endpoint.model
        if request.stream and self.endpoint.capabilities.streaming_usage:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body

    @classmethod
    def speaks_responses(cls, options: Mapping[str, Any]) -> bool:
        return options.get("responses", cls.kind == "openai") is True

    async def complete(self, request: ChatRequest) -> Reply:
        native = await self._ask_responses(request)
        if native is not None:
            try:
                return openai_responses.read_response(await native.read(), self.endpoint)
            finally:
                native.close()
        reply = await self._post(request)
        try:
            return read_completion(await reply.read(), self.endpoint)
        finally:
            reply.close()

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
        reply = await self._post(request)
        try:
            if (reply.headers.get("content-type") or "").startswith("application/json"):
                yield _whole_as_batch(await reply.read(), self.endpoint)
                return
            reader = ChatStreamReader(self.endpoint, hide_usage=not request.wants_usage)
            same_wire = request.wire == self.wire
            while packet := await reply.next_bytes():
                batch = reader.feed(packet)
                if batch is not None:
                    if not same_wire:
                        batch.wire = None
                    yield batch
                if reader.done:
                    await read_end(reply)
                    return
            if (batch := reader.finish()) is not None:
                if not same_wire:
                    batch.wire = None
                yield batch
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

    async def _post(self, request: ChatRequest) -> HttpReply:
        reply = await self.http.request(
            "POST",
            self._chat_url,
            headers=self._headers,
            body=orjson.dumps(self.payload(request)),
            timeouts=self.endpoint.timeouts,
        )
        if reply.status != 200:
            raise await self._error(reply)
        return reply

    async def _error(self, reply: HttpReply) -> UpstreamError:
        try:
            body = await reply.read(limit=1 << 20)
        except UpstreamError:
            body = b""  # the status alone tells enough
        finally:
            reply.close()
        return error_from_reply(
            reply.status,
            body,
            retry_after=reply.headers.get("retry-after"),
            endpoint=self.endpoint,
        )

    async def list_models(self) -> list[ModelInfo]:
        reply = await self.http.request(
            "GET", self._models_url, headers=self._headers, timeouts=self.endpoint.timeouts
        )
        if reply.status != 200:
            raise await self._error(reply)
        try:
            return read_models(await reply.read(limit=MAX_LISTING))
        finally:
            reply.close()


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
    except msgspec.DecodeError:
        completion = None
    if completion is None or completion.error is not None or not _is_strict(completion):
        body = _mend_completion(body, endpoint)
        completion = _decode(body)
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


def _mend_completion(body: bytes, endpoint: Endpoint) -> bytes:
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
    for choice in choices:
        choice["finish_reason"] = legal_finish(choice.get("finish_reason") or None)
        if isinstance(choice["message"].get("content"), list):
            text_of_parts(choice["message"])
        elif not isinstance(choice["message"].get("content"), str | None):
            choice["message"]["content"] = str(choice["message"]["content"])
    mend_usage(fields)
    return orjson.dumps(fields)


def _has_message(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


def _whole_as_batch(body: bytes, endpoint: Endpoint) -> Batch:
    """A server that ignores `stream` answers with plain JSON: the same answer, as chunks."""
    reply = read_completion(body, endpoint)
    chunks = unfold(orjson.loads(reply.body))
    if chunks and reply.usage is not None:
        chunks[-1].usage = reply.usage
    return Batch(chunks)


class OpenAICompatibleAdapter(OpenAIAdapter):
    """A row with an address of its own: vLLM, OpenRouter, Groq, llama.cpp, another gateway."""

    kind = "openai-compatible"
    default_base_url: ClassVar[str | None] = None
    needs_key = False
    takes_extensions = True


class LMStudioAdapter(OpenAICompatibleAdapter):
    kind = "lmstudio"
    default_base_url = "http://127.0.0.1:1234/v1"


class OllamaAdapter(OpenAICompatibleAdapter):
    """Ollama's OpenAI endpoint. Its address is the server's root, as in OLLAMA_HOST."""

    kind = "ollama"
    default_base_url = "http://127.0.0.1:11434"

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        super().__init__(endpoint, http)
        root = (endpoint.base_url or self.default_base_url).rstrip("/").removesuffix("/v1")
        self._chat_url, self._models_url = f"{root}/v1/chat/completions", f"{root}/v1/models"


class MLXAdapter(OpenAICompatibleAdapter):
    """A remote `mlx_lm.server`."""

    kind = "mlx"
    default_base_url = "http://127.0.0.1:8080/v1"
