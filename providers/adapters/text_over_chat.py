"""Text completions by upstreams that only chat: the prompt is the user's message, verbatim."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import orjson

from chat.errors import InvalidRequest
from chat.parsing import convert
from chat.requests import ChatParams, ChatRequest
from chat.text_completions import TextRequest, legacy_logprobs
from chat.types import Batch, Reply
from providers.adapters.text_by_prompt import complete_each, stream_each

if TYPE_CHECKING:
    from providers.adapters.base import ChatAdapter

_NOT_A_CHATS = frozenset(("prompt", "suffix", "best_of", "echo", "logprobs", "n", "stream_options"))


async def complete_over_chat(adapter: ChatAdapter, request: TextRequest) -> Reply:
    async def ask(one: TextRequest) -> Reply:
        return _as_text(await adapter.complete(_chat(one)))

    return await complete_each(request, ask)


def stream_over_chat(adapter: ChatAdapter, request: TextRequest) -> AsyncGenerator[Batch]:
    return stream_each(request, lambda one: _texts(adapter.stream(_chat(one))))


async def _texts(source: AsyncGenerator[Batch]) -> AsyncGenerator[Batch]:
    try:
        async for batch in source:
            for chunk in batch.chunks:
                for choice in chunk.choices:
                    choice.logprobs = _legacy(choice.logprobs)
            yield Batch(batch.chunks)
    finally:
        await source.aclose()


def _chat(one: TextRequest) -> ChatRequest:
    prompt = one.params.prompt
    if not isinstance(prompt, str):
        raise InvalidRequest(
            "This model takes prompts as text, not as tokens.",
            param="prompt",
            code="unsupported_parameter",
        )
    body = {name: value for name, value in one.body.items() if name not in _NOT_A_CHATS}
    body["messages"] = [{"role": "user", "content": prompt}]
    if one.params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": one.params.logprobs}
    return ChatRequest(
        params=convert(body, ChatParams), body=body, size=one.size, dropped=one.dropped
    )


def _as_text(reply: Reply) -> Reply:
    """A chat completion as the text completion of one prompt."""
    told = orjson.loads(reply.body)
    choice = told["choices"][0]
    text = {
        "text": choice["message"].get("content") or "",
        "index": 0,
        "logprobs": _legacy(choice.get("logprobs")),
        "finish_reason": choice.get("finish_reason"),
    }
    return Reply(
        body=orjson.dumps({"model": told.get("model"), "choices": [text]}),
        finish_reason=reply.finish_reason,
        usage=reply.usage,
        text_bytes=reply.text_bytes,
    )


def _legacy(logprobs: Any) -> dict[str, Any] | None:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return legacy_logprobs(content) if isinstance(content, list) and content else None
