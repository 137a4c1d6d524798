"""Anthropic's Messages API.

A caller on the same wire (`/v1/messages`) is passed through: its body with another model and
credential, the answer's bytes as they are. Anyone else's request is translated
(`anthropic_request`), and so is the answer (`anthropic_reply`, `anthropic_stream`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from functools import cached_property, partial
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec
import orjson

from chat.errors import UpstreamFailed, UpstreamUnreachable
from chat.folding import unfold
from chat.ndjson import UNREADABLE
from chat.relays import forwardable
from chat.requests import ChatRequest
from chat.types import Batch, ModelInfo, Reply, Wire
from providers.adapters.anthropic_errors import error_in_band, error_of
from providers.adapters.anthropic_format import takes_format
from providers.adapters.anthropic_models import ModelFacts, facts_of
from providers.adapters.anthropic_reply import read_completion, read_native
from providers.adapters.anthropic_request import Payload, build_payload
from providers.adapters.anthropic_stream import MessageStreamReader
from providers.adapters.base import ChatAdapter, Endpoint
from providers.adapters.open_stream import OpenStream, read_batches
from providers.adapters.openai_errors import read_error
from providers.adapters.openai_models import is_name
from providers.capabilities import Capabilities
from providers.http import HttpClient, HttpReply

API_VERSION = "2023-06-01"
"""The version whose shapes this package speaks; a caller on the same wire names its own."""
_CALLERS_HEADERS = ("anthropic-version", "anthropic-beta")
_COUNTED = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking"})
"""What `count_tokens` takes of a request; it refuses `max_tokens` and what else is no prompt."""
_PAGE = 1000
_MAX_PAGES = 20


class _Counted(msgspec.Struct):
    input_tokens: int


_decode_counted = msgspec.json.Decoder(_Counted).decode


class AnthropicAdapter(ChatAdapter):
    kind: ClassVar[str] = "anthropic"
    wire: ClassVar[Wire] = "anthropic"
    defaults: ClassVar[Capabilities] = Capabilities(audio=False, embeddings=False, json_mode=False)
    default_base_url: ClassVar[str | None] = "https://api.anthropic.com"
    needs_key: ClassVar[bool] = True

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        super().__init__(endpoint, http)
        base = endpoint.base_url or self.default_base_url or ""
        self._root = base.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json", "anthropic-version": API_VERSION}
        if endpoint.api_key:
            self._headers["x-api-key"] = endpoint.api_key

    def capabilities_for(self, request: ChatRequest) -> Capabilities:
        """A schema that this API would refuse is not one it can hold a model to."""
        if _passes_through(request) or request.params.response_format is None:
            return self.endpoint.capabilities
        able = self._facts.structured_output and takes_format(request.params)
        return self.endpoint.capabilities.with_overrides(
            {
                "structured_output": able,
                "json_mode": False,
                "tool_choice": self._facts.forced_tools,
            }
        )

    async def complete(self, request: ChatRequest) -> Reply:
        native = _passes_through(request)
        payload = self._payload(request)
        reply = await self._post("messages", payload.body, request.native_headers)
        body = await self.read_whole(reply)
        if native:
            return read_native(body, self.endpoint)
        return self._read_completion(body, payload)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        return read_batches(partial(self._open_stream, request), self.endpoint)

    async def _open_stream(self, request: ChatRequest) -> OpenStream:
        payload = self._payload(request)
        reply = await self._post("messages", payload.body, request.native_headers)
        reader = MessageStreamReader(
            self.endpoint,
            keep_wire=_passes_through(request),
            must_call=payload.must_call,
        )
        return OpenStream(reply, reader, partial(self._whole_as_batch, payload=payload))

    async def count_tokens(self, body: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        """What `POST /v1/messages/count_tokens` answers to this body, which is on Anthropic's wire,
        with the caller's wire headers (names in lower case). Raises GatewayError."""
        counted, _ = await self._count(self._native_body(body, set()), headers)
        return Reply(body=counted, finish_reason=None, usage=None, wire="anthropic")

    async def count_prompt(self, request: ChatRequest) -> int:
        body = self._payload(request).body
        prompt = {name: value for name, value in body.items() if name in _COUNTED}
        return (await self._count(prompt, request.native_headers))[1]

    async def _count(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[bytes, int]:
        reply = await self._post("messages/count_tokens", body, headers)
        counted = await self.read_whole(reply)
        try:
            tokens = _decode_counted(counted).input_tokens
            counted.decode()
        except UNREADABLE:
            if b'"error"' in counted:
                raise error_in_band(counted, self.endpoint) from None
            raise UpstreamFailed("The provider's answer holds no count.") from None
        return counted, tokens

    async def list_models(self) -> list[ModelInfo]:
        models: list[ModelInfo] = []
        query = {"limit": str(_PAGE)}
        for _ in range(_MAX_PAGES):
            page = await self._list_page(query)
            models += [listed.as_model() for listed in page.data if is_name(listed.id)]
            if not (page.has_more and page.last_id):
                break
            query["after_id"] = page.last_id
        return models

    async def _list_page(self, query: Mapping[str, str]) -> _ModelPage:
        reply = await self.http.request(
            "GET",
            f"{self._root}/v1/models?{urlencode(query)}",
            headers=self._headers,
            timeouts=self.endpoint.timeouts,
        )
        if reply.status != 200:
            raise error_of(reply, await read_error(reply), self.endpoint)
        try:
            return msgspec.json.decode(await self.read_whole(reply), type=_ModelPage)
        except UNREADABLE:
            raise UpstreamUnreachable(
                "The provider's model list could not be read.", kind="protocol", retryable=False
            ) from None

    def _payload(self, request: ChatRequest) -> Payload:
        if _passes_through(request):
            assert request.native is not None
            return Payload(self._native_body(request.native, request.dropped))
        return build_payload(request, model=self.endpoint.model, facts=self._facts)

    @cached_property
    def _facts(self) -> ModelFacts:
        facts = facts_of(self.endpoint.model, self.endpoint.options)
        return facts.limited_by(self.endpoint.capabilities)

    def _native_body(self, native: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
        """A body on the same wire: everything as it came, but for the model."""
        body = forwardable(native, dropped)
        body["model"] = self.endpoint.model
        return body

    def _whole_as_batch(self, body: bytes, payload: Payload) -> Batch:
        """A server that ignores `stream` answers with plain JSON: the same answer, as chunks."""
        reply = self._read_completion(body, payload)
        chunks = unfold(orjson.loads(reply.body))
        chunks[-1].usage = reply.usage
        return Batch(chunks)

    def _read_completion(self, body: bytes, payload: Payload) -> Reply:
        return read_completion(body, self.endpoint, must_call=payload.must_call)

    async def _post(self, path: str, body: dict[str, Any], callers: Mapping[str, str]) -> HttpReply:
        headers = self._headers
        if callers:
            headers = {**headers, **{n: callers[n] for n in _CALLERS_HEADERS if n in callers}}
        reply = await self.http.request(
            "POST",
            f"{self._root}/v1/{path}",
            headers=headers,
            body=orjson.dumps(body),
            timeouts=self.endpoint.timeouts,
        )
        if reply.status != 200:
            raise error_of(reply, await read_error(reply), self.endpoint)
        return reply


def _passes_through(request: ChatRequest) -> bool:
    return request.wire == "anthropic" and request.native is not None


class _Listed(msgspec.Struct):
    id: str
    created_at: str = ""
    max_input_tokens: int | None = None

    def as_model(self) -> ModelInfo:
        return ModelInfo(
            id=self.id,
            created=_epoch(self.created_at),
            owned_by="anthropic",
            context_window=self.max_input_tokens,
        )


class _ModelPage(msgspec.Struct):
    data: list[_Listed]
    has_more: bool = False
    last_id: str | None = None


def _epoch(moment: str) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0
