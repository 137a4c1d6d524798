"""A provider that asks nobody: scripted answers, delays and failures, for demos and tests.

A provider row of kind `fake` names its models and their scripts in `options`:

    {"models": {"echo": {}, "slow": {"chunk_delay_ms": 200}, "down": {"error": {"status": 503}}}}
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import msgspec
import orjson

from chat.embeddings import embeddings_body, wants_base64
from chat.errors import InvalidRequest, ModelNotFound, UpstreamFailed, UpstreamUnreachable
from chat.folding import CompletionFolder, usage_fields
from chat.prompts import separate_inputs
from chat.requests import ChatRequest, EmbeddingsRequest
from chat.types import (
    Batch,
    ChatChunk,
    ChunkChoice,
    Delta,
    FunctionDelta,
    ModelInfo,
    Reply,
    ToolCallDelta,
    Usage,
)
from providers.adapters.base import ChatAdapter
from providers.adapters.openai_errors import error_from_reply
from providers.capabilities import Capabilities

_WORDS = re.compile(r"\s*\S+|\s+\Z")
_DIMENSIONS, _MAX_DIMENSIONS = 32, 4096


class FakeError(msgspec.Struct, forbid_unknown_fields=True):
    status: int
    message: str = "scripted failure"
    code: str | None = None
    retry_after: str | None = None


class Script(msgspec.Struct, forbid_unknown_fields=True):
    """What a fake model does. Times in milliseconds."""

    reply: str | None = None
    """The answer; None repeats the caller's last message."""
    tool_calls: list[dict[str, Any]] = []
    """Calls made when the request offers tools: `{"name", "arguments"}`."""
    delay_ms: float = 0
    chunk_delay_ms: float = 0
    error: FakeError | None = None
    break_after_chunks: int | None = None
    """The stream breaks off after this many chunks, as a lost connection would."""
    hang_after_chunks: int | None = None
    """The stream falls silent after this many chunks."""


class FakeAdapter(ChatAdapter):
    kind: ClassVar[str] = "fake"
    defaults: ClassVar[Capabilities] = Capabilities(vision=False, audio=False)

    def _script(self) -> Script:
        models = self.endpoint.options.get("models") or {"echo": {}}
        if self.endpoint.model not in models:
            raise ModelNotFound(f"The model '{self.endpoint.model}' does not exist.", param="model")
        try:
            return msgspec.convert(models[self.endpoint.model], Script)
        except msgspec.ValidationError as error:
            raise UpstreamFailed(f"The fake model's script is wrong: {error}.") from None

    async def list_models(self) -> list[ModelInfo]:
        models = self.endpoint.options.get("models") or {"echo": {}}
        return [ModelInfo(id=name, owned_by="fake") for name in models]

    async def complete(self, request: ChatRequest) -> Reply:
        folder = CompletionFolder()
        async for batch in self.stream(request):
            for chunk in batch.chunks:
                folder.add(chunk)
        completion = folder.completion()
        text = completion["choices"][0]["message"]["content"] or ""
        return Reply(
            body=orjson.dumps(completion),
            finish_reason=completion["choices"][0]["finish_reason"],
            usage=folder.usage,
            text_bytes=len(text.encode()),
        )

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        script = self._script()
        await asyncio.sleep(script.delay_ms / 1000)
        if script.error is not None:
            raise self._error(script.error)
        for sent, chunk in enumerate(self._chunks(request, script)):
            if sent == script.break_after_chunks:
                raise UpstreamUnreachable(
                    "The provider's stream broke off.", kind="network", retryable=True
                )
            if sent == script.hang_after_chunks:
                await asyncio.Event().wait()
            if sent:
                await asyncio.sleep(script.chunk_delay_ms / 1000)
            yield Batch([chunk])

    async def embed(self, request: EmbeddingsRequest) -> Reply:
        """Vectors of length one that depend on nothing but their text."""
        if not self.endpoint.capabilities.embeddings:
            return await super().embed(request)
        script = self._script()
        await asyncio.sleep(script.delay_ms / 1000)
        if script.error is not None:
            raise self._error(script.error)
        params = request.params
        as_base64 = wants_base64(params)
        size = _DIMENSIONS if params.dimensions is None else params.dimensions
        if not 1 <= size <= _MAX_DIMENSIONS:
            raise InvalidRequest(
                f"The model has 1 to {_MAX_DIMENSIONS} dimensions.", param="dimensions"
            )
        tokens = max(1, request.size // 4)
        return Reply(
            body=embeddings_body(
                [_vector(each, size) for each in separate_inputs(params.input)],
                model=self.endpoint.model,
                prompt_tokens=tokens,
                as_base64=as_base64,
            ),
            finish_reason=None,
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        )

    def _error(self, error: FakeError) -> Exception:
        body = {"message": error.message, "code": error.code}
        return error_from_reply(
            error.status,
            orjson.dumps({"error": body}),
            retry_after=error.retry_after,
            endpoint=self.endpoint,
        )

    def _chunks(self, request: ChatRequest, script: Script) -> list[ChatChunk]:
        head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.endpoint.model,
        }
        calls = script.tool_calls if request.params.tools else []
        text = "" if calls else _answer(request, script)
        deltas = [Delta(role="assistant", content="")]
        deltas += [Delta(content=word) for word in _WORDS.findall(text)]
        deltas += [Delta(tool_calls=[_call(at, call)]) for at, call in enumerate(calls)]
        chunks = [ChatChunk(choices=[ChunkChoice(0, delta)], **head) for delta in deltas]
        end = ChunkChoice(0, Delta(), finish_reason="tool_calls" if calls else "stop")
        usage = Usage(
            prompt_tokens=max(1, request.size // 4), completion_tokens=max(1, len(deltas) - 1)
        )
        usage.total_tokens = (usage_fields(usage) or {})["total_tokens"]
        return [*chunks, ChatChunk(choices=[end], **head), ChatChunk([], usage=usage, **head)]


def _answer(request: ChatRequest, script: Script) -> str:
    if script.reply is not None:
        return script.reply
    content = request.params.messages[-1].content
    if isinstance(content, list):
        content = " ".join(part.text for part in content if isinstance(part.text, str))
    return content or ""


def _vector(text: str | list[int], size: int) -> list[float]:
    seed = text if isinstance(text, str) else " ".join(map(str, text))
    stream = hashlib.shake_256(seed.encode()).digest(2 * size)
    numbers = [int.from_bytes(stream[at : at + 2], "big") - 32767.5 for at in range(0, 2 * size, 2)]
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def _call(index: int, call: dict[str, Any]) -> ToolCallDelta:
    arguments = call.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = orjson.dumps(arguments).decode()
    return ToolCallDelta(
        index=index,
        id=f"call_{uuid.uuid4().hex[:24]}",
        type="function",
        function=FunctionDelta(name=str(call.get("name", "")), arguments=arguments),
    )
