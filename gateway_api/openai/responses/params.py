"""What a caller may say to `POST /v1/responses`: shapes as in openai 3.54.0,
`types/responses/response_create_params.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct

from chat.errors import InvalidRequest
from chat.parsing import convert, parse_object
from chat.requests import Rounds, ToolExecution, without_execution
from sessions_app.ids import is_id


class Reasoning(Struct):
    effort: str | None = None
    summary: str | None = None


class TextConfig(Struct):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ConversationName(Struct):
    id: str


class ResponsesParams(Struct):
    """The fields the gateway looks at, or whose type it vouches for. Ranges are an upstream's."""

    background: bool | None = None
    context_management: list[dict[str, Any]] | None = None
    conversation: str | ConversationName | None = None
    include: list[str] | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    model: str | None = None
    moderation: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    prompt: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: float | None = None
    text: TextConfig | None = None
    tool_choice: str | dict[str, Any] | None = None
    tool_execution: ToolExecution | None = None
    max_tool_rounds: Rounds | None = None
    tools: list[dict[str, Any]] | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise ValueError("`max_output_tokens` must be at least 1")

    @property
    def stored(self) -> bool:
        return self.store is not False

    @property
    def conversation_id(self) -> str:
        """The conversation's name; empty where none is asked for."""
        named = self.conversation
        return (named.id if isinstance(named, ConversationName) else named) or ""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came: typed `params`, and `body` with every field."""

    params: ResponsesParams
    body: dict[str, Any]
    size: int


def parse_responses_request(raw: bytes) -> Asked:
    """Raises InvalidRequest naming `param`."""
    body = parse_object(raw)
    params = convert(body, ResponsesParams)
    _check_source(params)
    _check_state(params)
    return Asked(params, without_execution(body), len(raw))


def _check_source(params: ResponsesParams) -> None:
    context = (params.previous_response_id, params.conversation_id, params.prompt)
    if params.input is None and not any(context):
        raise InvalidRequest(
            "Missing required parameter: 'input'.",
            param="input",
            code="missing_required_parameter",
        )


def _check_state(params: ResponsesParams) -> None:
    if params.previous_response_id and params.conversation_id:
        raise InvalidRequest(
            "'previous_response_id' and 'conversation' exclude one another.",
            param="conversation",
            code="mutually_exclusive_parameters",
        )
    if params.conversation_id and not is_id(params.conversation_id):
        raise InvalidRequest(
            "'conversation' must be 1 to 200 visible ASCII characters.", param="conversation"
        )
    if not params.stored and (params.background or params.conversation_id):
        name = "background" if params.background else "conversation"
        raise InvalidRequest(
            f"'{name}' needs the response to be stored: leave out 'store'.", param="store"
        )
