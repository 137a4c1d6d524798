"""What a Messages request looks like: the types that check it.

Shapes follow anthropic 2.12.0 (`types/message_create_params.py` and what it names). Structs ignore
fields they do not name, and types of blocks and tools they do not know pass: an upstream on this
wire gets the request as it came and is the judge of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from chat.requests import Rounds, ToolExecution

Count = Annotated[int, Meta(ge=0)]


class Source(Struct):
    """Where an image or a document comes from."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: str | list[Block] | None = None

    def __post_init__(self) -> None:
        for name in _SOURCE_FIELDS.get(self.type, ()):
            if getattr(self, name) is None:
                raise ValueError(f"a source of type `{self.type}` needs the field `{name}`")


_SOURCE_FIELDS = {
    "base64": ("media_type", "data"),
    "text": ("data",),
    "url": ("url",),
    "file": ("file_id",),
    "content": ("content",),
}


class Block(Struct):
    """A content block. Known types must carry their payload."""

    type: str
    text: str | None = None
    source: Source | str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | dict[str, Any] | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    title: str | None = None
    context: str | None = None
    tool_name: str | None = None
    citations: Any = None
    cache_control: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in _BLOCK_FIELDS.get(self.type, ()):
            if getattr(self, name) is None:
                raise ValueError(f"a block of type `{self.type}` needs the field `{name}`")
        if self.type in ("image", "document") and not isinstance(self.source, Source):
            raise ValueError(f"the `source` of a block of type `{self.type}` must be an object")
        if self.type == "tool_result" and isinstance(self.content, dict):
            raise ValueError("the `content` of a tool result must be a string or an array")


_BLOCK_FIELDS = {
    "text": ("text",),
    "image": ("source",),
    "document": ("source",),
    "search_result": ("source", "title", "content"),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": ("thinking",),
    "redacted_thinking": ("data",),
    "tool_reference": ("tool_name",),
}
_ROLE_OF = {
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "tool_result": "user",
}


class Turn(Struct):
    """One message. `system` in mid-conversation is a beta of this wire."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    def __post_init__(self) -> None:
        if self.content == [] and self.role == "user":
            raise ValueError("`content` must not be an empty array")
        blocks = () if isinstance(self.content, str) else self.content
        for at, block in enumerate(blocks):
            if _ROLE_OF.get(block.type, self.role) != self.role:
                raise ValueError(
                    f"`content[{at}]` is of type `{block.type}`, which belongs in messages of role "
                    f"`{_ROLE_OF[block.type]}`"
                )


class ToolDefinition(Struct):
    """A tool of the caller's, or one that Anthropic runs (any other `type`)."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.is_custom:
            for name in ("name", "input_schema"):
                if getattr(self, name) is None:
                    raise ValueError(f"a tool needs the field `{name}`")

    @property
    def is_custom(self) -> bool:
        return self.type is None or self.type == "custom"


class ToolChoice(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def __post_init__(self) -> None:
        if self.type == "tool" and self.name is None:
            raise ValueError("a tool choice of type `tool` needs the field `name`")


class Thinking(Struct):
    type: str
    budget_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.type == "enabled" and self.budget_tokens is None:
            raise ValueError("thinking of type `enabled` needs the field `budget_tokens`")


class OutputFormat(Struct):
    type: str
    schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.type == "json_schema" and self.schema is None:
            raise ValueError("a format of type `json_schema` needs the field `schema`")


class OutputConfig(Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(Struct):
    user_id: str | None = None


class PromptParams(Struct, kw_only=True):
    """The fields of a request whose tokens are to be counted."""

    messages: list[Turn]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The name of `output_config.format` while it was a beta."""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("`messages` must not be empty")
        if not isinstance(self.system, str):
            for at, block in enumerate(self.system or ()):
                if block.type != "text":
                    raise ValueError(f"`system[{at}]` must be of type `text`")


class MessagesParams(PromptParams, kw_only=True):
    """The fields of a Messages request that the gateway looks at, or whose type it vouches for."""

    max_tokens: Count
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    tool_execution: ToolExecution | None = None
    max_tool_rounds: Rounds | None = None
