"""Legacy text completions: a prompt is carried on, in the OpenAI shape.

Their chunks are told as chat chunks whose deltas hold the text, so that whatever reads chunks reads
these too; the shapes follow openai 3.54.0 (`types/completion*.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from chat.folding import usage_fields
from chat.prompts import Prompt, require_one_kind, separate_inputs
from chat.requests import StreamOptions
from chat.types import ChatChunk, TokensDetails, Usage

OBJECT = "text_completion"


class TextParams(Struct):
    """The fields of a text completion request whose type the gateway vouches for."""

    prompt: Prompt
    model: str | None = None
    best_of: int | None = None
    echo: bool | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    max_tokens: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        require_one_kind("prompt", self.prompt)
        if self.n is not None and self.n < 1:
            raise ValueError("`n` must be at least 1")


@dataclass(slots=True)
class TextRequest:
    """One text completion asked for: typed `params`, and `body` with every field as it came."""

    params: TextParams
    body: dict[str, Any]
    size: int
    dropped: set[str] = field(default_factory=set)

    @property
    def model(self) -> str | None:
        return self.params.model

    @property
    def stream(self) -> bool:
        return self.params.stream is True

    @property
    def wants_usage(self) -> bool:
        """Whether the caller asked for the usage chunk of a stream."""
        options = self.params.stream_options
        return options is not None and options.include_usage is True

    @property
    def max_output_tokens(self) -> int | None:
        if self.params.max_tokens is None:
            return None
        drafts = max(self.params.n or 1, self.params.best_of or 1)
        return self.params.max_tokens * drafts * len(self.prompts)

    @property
    def prompts(self) -> list[str | list[int]]:
        return separate_inputs(self.params.prompt)

    def of_one(self, prompt: str | list[int]) -> TextRequest:
        """The same asked once of one prompt, with what is made good outside (`echo`) left out."""
        params = msgspec.structs.replace(self.params, prompt=_as_prompt(prompt), n=None, echo=None)
        body = {name: value for name, value in self.body.items() if name not in ("n", "echo")}
        body["prompt"] = prompt
        size = len(prompt.encode()) if isinstance(prompt, str) else 4 * len(prompt)
        return TextRequest(params, body, size, self.dropped)


def _as_prompt(prompt: str | list[int]) -> Prompt:
    return prompt if isinstance(prompt, str) else [*prompt]


def legacy_logprobs(content: Iterable[Any], *, offset: int = 0) -> dict[str, Any]:
    """A chat's log probabilities in the shape of text completions; entries that are none are left
    out. `offset` is where the text begins, in characters."""
    entries = [entry for entry in content if isinstance(entry, dict)]
    tokens = [str(entry.get("token", "")) for entry in entries]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [entry.get("logprob") for entry in entries],
        "top_logprobs": [_by_token(entry.get("top_logprobs")) for entry in entries],
        "text_offset": offsets,
    }


def _by_token(tops: Any) -> dict[str, Any]:
    found = tops if isinstance(tops, list) else ()
    return {str(top.get("token", "")): top.get("logprob") for top in found if isinstance(top, dict)}


def sum_usage(one: Usage | None, other: Usage | None) -> Usage | None:
    """Both together; None where either is unknown, because half a bill is none."""
    if one is None or other is None:
        return None
    prompt = one.prompt_tokens + other.prompt_tokens
    output = (one.completion_tokens or 0) + (other.completion_tokens or 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=output,
        total_tokens=prompt + output,
        prompt_tokens_details=_sum_details(one.prompt_tokens_details, other.prompt_tokens_details),
        completion_tokens_details=_sum_details(
            one.completion_tokens_details, other.completion_tokens_details
        ),
        estimated=True if True in (one.estimated, other.estimated) else UNSET,
    )


def _sum_details(one: TokensDetails | None, other: TokensDetails | None) -> TokensDetails | None:
    if one is None or other is None:
        return one or other
    return TokensDetails(
        cached_tokens=(one.cached_tokens or 0) + (other.cached_tokens or 0),
        cache_write_tokens=(one.cache_write_tokens or 0) + (other.cache_write_tokens or 0),
        reasoning_tokens=(one.reasoning_tokens or 0) + (other.reasoning_tokens or 0),
    )


def text_chunk(chunk: ChatChunk, *, wants_usage: bool) -> dict[str, Any] | None:
    """A chunk as a text completion's; None for one that says nothing there."""
    choices = [
        {
            "text": choice.delta.content or "",
            "index": choice.index,
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish_reason,
        }
        for choice in chunk.choices
        if choice.delta.content or choice.finish_reason or choice.logprobs
    ]
    if not choices and (chunk.choices or chunk.usage is None or not wants_usage):
        return None
    fields: dict[str, Any] = {"object": OBJECT, "choices": choices}
    if wants_usage:
        fields["usage"] = None if choices else usage_fields(chunk.usage)
    return fields


def new_text_id() -> str:
    return f"cmpl-{uuid.uuid4().hex}"
