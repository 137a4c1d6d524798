"""Chunks and completions in the OpenAI chat-completion shape, and what models are told by.

Shapes follow openai 3.54.0 (`types/chat/`). Structs ignore fields they do not name: on a same-wire
exchange the bytes carry those. What is decoded from JSON holds no cycles, so the streamed types
stay out of the cyclic collector (`gc`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct

Wire = Literal["openai", "anthropic", "ollama", "responses"]
"""The dialects callers and upstreams speak; `responses` is OpenAI's Responses API, which only some
upstreams of the `openai` wire have besides chat completions."""

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
FINISH_REASONS: frozenset[str] = frozenset(FinishReason.__args__)  # type: ignore[attr-defined]


MAX_COUNT = 2**40
"""More tokens than any exchange can have: what reports more reports nothing, and no ledger's
arithmetic would hold it."""
Count = Annotated[int, Meta(ge=-MAX_COUNT, le=MAX_COUNT)]


class TokensDetails(Struct, gc=False, omit_defaults=True):
    """The parts of a token count. Absent or null parts count as zero."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class Usage(Struct, gc=False):
    """Token counts as OpenAI reports them: `prompt_tokens` includes the cached ones."""

    prompt_tokens: Count = 0
    completion_tokens: Count | None = 0
    total_tokens: Count | None = 0
    prompt_tokens_details: TokensDetails | None = None
    completion_tokens_details: TokensDetails | None = None
    prompt_cache_hit_tokens: Count | None = None
    """DeepSeek's name for `prompt_tokens_details.cached_tokens`."""
    estimated: Any = UNSET
    """True where a count was missing upstream and is ours; callers see it too."""


class FunctionDelta(Struct, gc=False, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, gc=False, omit_defaults=True):
    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class Delta(Struct, omit_defaults=True, gc=False):
    """What one chunk adds to a choice."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """OpenRouter's and Groq's name for `reasoning_content`."""
    thinking_blocks: list[dict[str, Any]] | None = None
    """Anthropic's whole thinking blocks, signature included, each once: what a caller must send
    back untouched in a tool loop (M32). Their text came as `reasoning_content` already."""
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionDelta | None = None
    audio: Any = None


class ChunkChoice(Struct, gc=False):
    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: dict[str, list[Any] | None] | None = None
    stop_reason: Any = UNSET
    """The stop string that ended the answer, as vLLM tells it beside the finish reason."""


class ChatChunk(Struct, omit_defaults=True, gc=False):
    """One streamed piece. `choices` is empty on the usage chunk only."""

    choices: list[ChunkChoice]
    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    usage: Usage | None = None
    error: Any = None
    tool_messages: list[dict[str, Any]] | None = None
    """On the chunk that ends an answer: what the gateway's own runs of tools put between the
    caller's last message and this one."""


class Batch(Struct, gc=False):
    """Chunks that arrived together.

    `wire` is what the caller gets for them, where it speaks the upstream's wire and the upstream's
    own bytes can be passed on (without a usage chunk nobody asked for), and None where `chunks`
    must be encoded.
    """

    chunks: list[ChatChunk]
    wire: bytes | None = None


class Reply(Struct, gc=False):
    """A whole answer: its JSON and what the ledger needs of it.

    `body` is in the OpenAI shape, unless `wire` says that it is the upstream's own answer on the
    caller's own wire, to be passed on as it is.
    """

    body: bytes
    finish_reason: str | None
    usage: Usage | None
    text_bytes: int = 0
    """Size of the answer, for an estimate where the upstream reports no usage."""
    wire: Wire = "openai"


class TokenCounts(Struct, frozen=True):
    """Tokens of one exchange by kind, never negative. `input` includes `cached` and
    `cache_write`; `output` includes `reasoning`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


def count_tokens(usage: Usage) -> TokenCounts:
    """Reads counts out of an upstream's usage, each part clamped into its whole: a provider that
    reports more cached tokens than prompt tokens must not yield a negative bill (M21)."""
    if usage.prompt_tokens_details is usage.completion_tokens_details is None and (
        usage.prompt_cache_hit_tokens is None
    ):
        return TokenCounts(max(usage.prompt_tokens, 0), max(usage.completion_tokens or 0, 0))
    prompt = max(usage.prompt_tokens, 0)
    output = max(usage.completion_tokens or 0, 0)
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    cached = (inputs.cached_tokens if inputs else None) or usage.prompt_cache_hit_tokens or 0
    written = (inputs.cache_write_tokens if inputs else None) or 0
    reasoning = (outputs.reasoning_tokens if outputs else None) or 0
    cached = min(max(cached, 0), prompt)
    return TokenCounts(
        input=prompt,
        output=output,
        cached=cached,
        cache_write=min(max(written, 0), prompt - cached),
        reasoning=min(max(reasoning, 0), output),
    )


def add_usage(spent: Usage | None, usage: Usage) -> Usage:
    """The tokens of two askings that answer one request."""
    if spent is None:
        return usage
    before, after = count_tokens(spent), count_tokens(usage)
    prompt, output = before.input + after.input, before.output + after.output
    estimated = True if True in (spent.estimated, usage.estimated) else UNSET
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=output,
        total_tokens=prompt + output,
        prompt_tokens_details=TokensDetails(
            cached_tokens=before.cached + after.cached,
            cache_write_tokens=before.cache_write + after.cache_write,
        ),
        completion_tokens_details=TokensDetails(
            reasoning_tokens=before.reasoning + after.reasoning
        ),
        estimated=estimated,
    )


def estimate_usage(size: int, text_bytes: int) -> Usage:
    """What an exchange used up whose upstream tells no counts: of the bytes of a request and of its
    answer, four to a token, as English text has in the usual vocabularies."""
    prompt, output = max(1, size // 4), -(-text_bytes // 4)
    return Usage(prompt, output, prompt + output, estimated=True)


def has_substance(chunk: ChatChunk) -> bool:
    """Whether a chunk commits an upstream to an answer: text, reasoning, a tool call or a finish.
    A role alone does not: an upstream may still fail with a status of its own after it (M25)."""
    for choice in chunk.choices:
        delta = choice.delta
        if (
            delta.content
            or choice.finish_reason
            or delta.tool_calls
            or delta.reasoning_content
            or delta.reasoning
            or delta.refusal
            or delta.function_call
            or delta.audio
        ):
            return True
    return False


class ModelInfo(Struct, frozen=True, omit_defaults=True):
    """One model as an upstream lists it."""

    id: str
    created: int = 0
    owned_by: str = ""
    context_window: int | None = None
    capabilities: dict[str, bool] | None = None
    """What the listing itself says the model can do, by the names of
    `providers.capabilities.Capabilities`; what it does not say is not in it."""


class RunningModel(Struct, frozen=True):
    """One model that is in an upstream's memory now. Sizes in bytes; `expires_at`, RFC 3339, is
    when it will be put out unless it is used, empty where that is not known."""

    id: str
    size: int = 0
    size_vram: int = 0
    expires_at: str = ""
    context_window: int | None = None


_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """JSON of any vocabulary type."""
    return _encoder.encode(value)
