"""Chat requests, chunks and completions in the OpenAI chat-completion shape.

Shapes follow openai 3.54.0 (`types/chat/`). Structs ignore fields they do not name: on a same-wire
exchange the bytes carry those, and `ChatRequest.body` keeps every field a caller sent. What is
decoded from JSON holds no cycles, so the streamed types stay out of the cyclic collector (`gc`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import UNSET, Meta, Struct

from chat.errors import GatewayError
from chat.prompts import Prompt, require_one_kind

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


# --- requests ---------------------------------------------------------------------------------


class InferenceRequest(Protocol):
    """What is asked of a model, as far as admission, the ledger and the answer's headers need it:
    the same for chats, embeddings, texts and whatever is only relayed."""

    size: int
    """Bytes of the body, for the estimate of its tokens."""
    dropped: set[str]
    """Fields an adapter could not pass on; the caller is told."""

    @property
    def model(self) -> str | None:
        """The public name asked for."""

    @property
    def stream(self) -> bool: ...

    @property
    def max_output_tokens(self) -> int | None: ...


class ImageURL(Struct):
    url: str
    detail: str | None = None


class InputAudio(Struct):
    data: str
    format: str


class ContentPart(Struct):
    """A part of a message. Types we do not know are an upstream's business; known ones must carry
    their payload."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageURL | str | None = None
    input_audio: InputAudio | None = None
    file: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.type in _PART_PAYLOADS and getattr(self, self.type) is None:
            raise ValueError(f"a part of type `{self.type}` needs the field `{self.type}`")


_PART_PAYLOADS = frozenset({"text", "refusal", "image_url", "input_audio", "file"})


class CalledFunction(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    type: str = "function"
    function: CalledFunction | None = None
    custom: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.type == "function" and self.function is None:
            raise ValueError("a tool call of type `function` needs the field `function`")


Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


class Message(Struct):
    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.content is None and self.role not in ("assistant", "function"):
            raise ValueError(f"a message of role `{self.role}` needs the field `content`")
        if self.content == [] and self.role != "assistant":
            raise ValueError("`content` must not be an empty array")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role `tool` needs the field `tool_call_id`")


class FunctionDefinition(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool offered. Mistral's clients leave its type out."""

    type: str = "function"
    function: FunctionDefinition | None = None

    def __post_init__(self) -> None:
        if self.type == "function" and self.function is None:
            raise ValueError("a tool of type `function` needs the field `function`")


class StreamOptions(Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(Struct):
    type: str
    json_schema: dict[str, Any] | None = None


class ChatParams(Struct):
    """The fields of a chat completion request the gateway looks at, or whose type it vouches for.

    Ranges are left to the upstream, which knows its model; types are not, because a wrong type
    answered here costs no upstream call.
    """

    messages: list[Message]
    model: str | None = None
    audio: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    function_call: str | dict[str, Any] | None = None
    functions: list[FunctionDefinition] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: dict[str, Any] | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[Tool] | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("`messages` must not be empty")
        if self.n is not None and self.n < 1:
            raise ValueError("`n` must be at least 1")


@dataclass(slots=True)
class ChatRequest:
    """One chat completion asked for: typed `params`, and `body` with every field, both in the
    OpenAI shape whatever the caller's wire."""

    params: ChatParams
    body: dict[str, Any]
    size: int
    """Bytes of the body, for the estimate of its tokens."""
    wire: Wire = "openai"
    """The wire the caller speaks."""
    native: dict[str, Any] | None = None
    """The body as it came, where `wire` is not OpenAI's: what an upstream on that wire is sent."""
    native_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the caller that are part of its wire (`anthropic-beta`), names in lower case."""
    dropped: set[str] = field(default_factory=set)
    """Fields an adapter could not pass on; the caller is told."""
    native_only: GatewayError | None = None
    """Why only an upstream on the caller's wire can serve this, where `body` cannot say it all."""
    native_throughout: bool = False
    """Whether what follows depends on who answers, so that no target may be on another wire."""
    emulated: set[str] = field(default_factory=set)
    """Capabilities (by their flags' names) an adapter imitated; the caller is told."""

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
        return self.params.max_completion_tokens or self.params.max_tokens


class EmbeddingsParams(Struct):
    """The fields of an embeddings request the gateway looks at. `input` is a text, texts, the
    tokens of a text, or those of several."""

    input: Prompt
    model: str | None = None
    dimensions: int | None = None
    encoding_format: str | None = None
    """`float` or `base64`; some services know more."""
    user: str | None = None

    def __post_init__(self) -> None:
        require_one_kind("input", self.input)


@dataclass(slots=True)
class EmbeddingsRequest:
    """Embeddings asked for: typed `params`, and `body` with every field as it came."""

    params: EmbeddingsParams
    body: dict[str, Any]
    size: int
    dropped: set[str] = field(default_factory=set)
    wire: Wire = "openai"
    """The wire the caller speaks."""
    native: dict[str, Any] | None = None
    """The body as it came, where `wire` is not OpenAI's: what an upstream on that wire is sent."""

    @property
    def model(self) -> str | None:
        return self.params.model

    @property
    def stream(self) -> bool:
        return False

    @property
    def max_output_tokens(self) -> int | None:
        return None


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
