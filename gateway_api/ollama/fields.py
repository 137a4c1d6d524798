"""The bodies Ollama's clients send, typed. Shapes follow Ollama's `docs/api.md` and its Python
client 0.6.3; fields these do not name pass to Ollama upstreams all the same."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from chat.requests import Rounds, ToolExecution


class CalledFunction(Struct):
    name: str
    arguments: dict[str, Any] | str | None = None


class ToolCall(Struct):
    function: CalledFunction
    id: str | None = None


class Message(Struct):
    """Ollama's Python client leaves out a content that is empty."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    function: Function
    type: str | None = None


class _Answering(Struct, kw_only=True):
    """What `/api/chat` and `/api/generate` share."""

    model: str | None = None
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.format, str) and self.format not in ("", "json"):
            raise ValueError("`format` must be `json` or a JSON Schema")
        if isinstance(self.think, str) and self.think not in _LEVELS:
            raise ValueError(f"`think` must be a boolean or one of {', '.join(_LEVELS)}")


_LEVELS = ("low", "medium", "high", "max")


class ChatFields(_Answering):
    messages: list[Message]
    tools: list[Tool] | None = None
    tool_execution: ToolExecution | None = None
    max_tool_rounds: Rounds | None = None


class GenerateFields(_Answering):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ShowFields(Struct):
    model: str | None = None
    name: str | None = None
    """What `model` was called before 0.1.33."""
    verbose: bool | None = None

    def __post_init__(self) -> None:
        if not (self.model or self.name):
            raise ValueError("`model` is required")


class EmbedFields(Struct):
    input: str | list[str]
    model: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class EmbeddingsFields(Struct):
    """The legacy endpoint's."""

    prompt: str
    model: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class Options(Struct):
    """The `options` that OpenAI has a word for."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    num_predict: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class OptionsHolder(Struct):
    """So that a wrong option is named by its whole place."""

    options: Options | None = None
