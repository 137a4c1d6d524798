"""What is asked of a model, in the OpenAI chat-completion shape.

Shapes follow openai 3.54.0 (`types/chat/`). Structs ignore fields they do not name:
`ChatRequest.body` keeps every field a caller sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta, Struct

from chat.errors import GatewayError
from chat.prompts import Prompt, require_one_kind
from chat.types import Wire


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


ToolExecution = Literal["client", "server"]
"""Who runs the calls of registered tools: the caller, or the gateway."""
DEFAULT_TOOL_ROUNDS = 8
MAX_TOOL_ROUNDS = 32
Rounds = Annotated[int, Meta(ge=1, le=MAX_TOOL_ROUNDS)]
EXECUTION = ("tool_execution", "max_tool_rounds")
"""The gateway's own fields of every wire's chats; no upstream gets them."""


class Executing(Protocol):
    """The fields of EXECUTION, on whichever wire."""

    tool_execution: ToolExecution | None
    max_tool_rounds: int | None


def server_rounds(asked: Executing) -> int:
    """The rounds of calls the gateway may run for a request."""
    if asked.tool_execution != "server":
        return 0
    return asked.max_tool_rounds or DEFAULT_TOOL_ROUNDS


def without_execution(body: dict[str, Any]) -> dict[str, Any]:
    """The body without the fields of EXECUTION."""
    if body.keys().isdisjoint(EXECUTION):
        return body
    return {name: value for name, value in body.items() if name not in EXECUTION}


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
    tool_execution: ToolExecution | None = None
    max_tool_rounds: Rounds | None = None
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
    server_rounds: int = 0
    """How often calls of tools that the gateway runs are run for this request; 0: never."""
    emulated: set[str] = field(default_factory=set)
    """Capabilities (by their flags' names) an adapter imitated; the caller is told."""
    answer_retries: int | None = None
    """How often an answer that is not in its `response_format` is asked for again; None where the
    caller does not say."""

    @property
    def model(self) -> str | None:
        return self.params.model

    @property
    def stream(self) -> bool:
        return self.params.stream is True

    @property
    def has_tools(self) -> bool:
        return bool(self.params.tools or self.params.functions)

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
