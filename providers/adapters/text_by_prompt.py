"""Text completions by an upstream that carries on one prompt at a time.

A list of prompts, and `n` drafts of each, are one call each, one after the other; their usage is
summed and their choices are numbered through, as OpenAI's own answer has them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson

from chat.errors import GatewayError, InvalidRequest
from chat.folding import usage_fields
from chat.text_completions import OBJECT, TextRequest, new_text_id, sum_usage
from chat.types import Batch, ChatChunk, ChunkChoice, Delta, Reply, Usage, has_substance

_BYTES_PER_TOKEN = 4
MAX_CALLS = 128
"""Calls that one request may cause: more would be a way around limits that count requests."""


async def complete_each(
    request: TextRequest, ask: Callable[[TextRequest], Awaitable[Reply]]
) -> Reply:
    """The whole answer. `ask` gets a text completion with one choice for one prompt."""
    usage: Usage | None = Usage()
    billed = Usage()
    model, text_bytes = "", 0
    choices: list[dict[str, Any]] = []
    for index, (one, echoed) in enumerate(_calls(request)):
        try:
            reply = await ask(one)
        except GatewayError as error:
            if index:  # what was answered before it has been paid for
                error.usage = sum_usage(billed, error.usage or Usage())
            raise
        billed = sum_usage(billed, reply.usage or _estimated(one, reply)) or billed
        usage = sum_usage(usage, reply.usage)
        text_bytes += reply.text_bytes
        told = orjson.loads(reply.body)
        model = model or told.get("model") or ""
        choice = told["choices"][0]
        choices.append({**choice, "index": index, "text": echoed + choice["text"]})
    body = {
        "id": new_text_id(),
        "object": OBJECT,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage_fields(usage),
    }
    return Reply(
        body=orjson.dumps(body),
        finish_reason=choices[0]["finish_reason"],
        usage=usage,
        text_bytes=text_bytes,
    )


def _estimated(one: TextRequest, reply: Reply) -> Usage:
    """For the ledger, where an upstream does not count: English text in the usual vocabularies."""
    return Usage(
        prompt_tokens=max(1, one.size // _BYTES_PER_TOKEN),
        completion_tokens=-(-reply.text_bytes // _BYTES_PER_TOKEN),
        estimated=True,
    )


async def stream_each(
    request: TextRequest, start: Callable[[TextRequest], AsyncGenerator[Batch]]
) -> AsyncGenerator[Batch]:
    """The answer as it comes. What has been used so far stands on a chunk after each prompt, for
    the ledger; only the last of them has no choices, which is the one a caller may see."""
    used: Usage | None = Usage()
    calls = _calls(request)
    for index, (one, echoed) in enumerate(calls):
        usage: Usage | None = None
        async with aclosing(start(one)) as source:
            async for batch in source:
                for chunk in batch.chunks:
                    usage, chunk.usage = chunk.usage or usage, None
                    for choice in chunk.choices:
                        choice.index = index
                    if echoed and has_substance(chunk):
                        _put_in_front(echoed, chunk)
                        echoed = ""
                if shown := [chunk for chunk in batch.chunks if chunk.choices]:
                    yield Batch(shown)
        used = sum_usage(used, usage)
        if used is not None:
            is_last = index == len(calls) - 1
            yield Batch([ChatChunk([] if is_last else [ChunkChoice(index, Delta())], usage=used)])


def _put_in_front(text: str, chunk: ChatChunk) -> None:
    delta = chunk.choices[0].delta
    delta.content = text + (delta.content or "")


def _calls(request: TextRequest) -> list[tuple[TextRequest, str]]:
    """What to ask, and the text to put in front of each answer. Raises InvalidRequest for what no
    upstream of this sort can do."""
    params = request.params
    drafts = params.n or 1
    if params.suffix:
        raise _inexpressible("suffix", "text cannot be filled in before a suffix")
    if (params.best_of or drafts) > drafts:
        raise _inexpressible("best_of", "answers cannot be compared to choose the best")
    if params.echo and params.logprobs is not None:
        raise _inexpressible("echo", "the prompt's own log probabilities are not known")
    prompts = request.prompts
    if len(prompts) * drafts > MAX_CALLS:
        raise _inexpressible("prompt", f"it takes no more than {MAX_CALLS} prompts times `n`")
    if params.echo and not isinstance(prompts[0], str):
        raise _inexpressible("echo", "tokens cannot be told as text")
    return [
        (request.of_one(prompt), str(prompt) if params.echo else "")
        for prompt in prompts
        for _ in range(drafts)
    ]


def _inexpressible(param: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"This model cannot be asked for '{param}': {reason}.",
        param=param,
        code="unsupported_parameter",
    )
