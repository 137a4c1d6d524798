"""A Messages request in the OpenAI shape.

The caller's body travels along as it came (`ChatRequest.native`): an upstream on this wire gets
that. What the OpenAI shape has no word for is dropped and told, or, where the request would not be
the same without it, makes the request one for such an upstream only (`native_only`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from chat.errors import InvalidRequest
from chat.parsing import explain_mismatch, parse_object
from chat.requests import ChatParams, ChatRequest, server_rounds, without_execution
from gateway_api.anthropic.conversation import Conversation, Notes
from gateway_api.anthropic.shapes import (
    Block,
    MessagesParams,
    OutputFormat,
    PromptParams,
    Thinking,
    ToolChoice,
    ToolDefinition,
    Turn,
)

_TRANSLATED = frozenset(MessagesParams.__struct_fields__) - {"top_k"}
_REFUSED = {
    "container": "a container",
    "inference_geo": "the place of inference",
    "mcp_servers": "an MCP server that Anthropic connects to",
    "thread": "a thread",
}
_TOOL_FIELDS = frozenset(ToolDefinition.__struct_fields__)
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SERVICE_TIERS = {"auto": "auto", "standard_only": "default"}
MAX_NAME, MAX_NAMES = 64, 32
LOW_BUDGET, MEDIUM_BUDGET = 4096, 16384
"""Thinking budgets in tokens up to which the effort is low, and medium."""


@dataclass(frozen=True, slots=True)
class Translated:
    """A request for any upstream, and the fields that one on another wire will not get."""

    request: ChatRequest
    dropped: frozenset[str]


def parse_messages(raw: bytes, headers: Mapping[str, str]) -> Translated:
    """A Messages request. Raises InvalidRequest naming the place of what is wrong."""
    return _parse(raw, headers, MessagesParams)


def parse_prompt(raw: bytes, headers: Mapping[str, str]) -> Translated:
    """A request whose tokens are to be counted, checked the same way."""
    return _parse(raw, headers, PromptParams)


def _parse(raw: bytes, headers: Mapping[str, str], shape: type[PromptParams]) -> Translated:
    body = parse_object(raw)
    try:
        params = msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        raise explain_mismatch(error) from None
    notes = Notes()
    fields = _translate(params, body, notes)
    request = ChatRequest(
        params=msgspec.convert(fields, ChatParams),
        body=fields,
        size=len(raw),
        wire="anthropic",
        native=without_execution(without_unsigned(params, body)),
        native_headers=headers,
        native_only=notes.inexpressible,
    )
    if isinstance(params, MessagesParams):
        request.server_rounds = server_rounds(params)
    if body.get("thread"):
        _keep_together(request)
    return Translated(request, _told(notes.dropped))


def _told(dropped: set[str]) -> frozenset[str]:
    """Names for a header, which has to stay one whatever a caller calls its fields."""
    return frozenset(name[:MAX_NAME] for name in sorted(dropped)[:MAX_NAMES])


def _keep_together(request: ChatRequest) -> None:
    """A thread is a conversation that Anthropic holds: the next request says only what is new, and
    no other upstream would know what came before. Where one may be asked, the thread is refused in
    the words on which the SDK goes on without one, with the whole conversation in each request."""
    request.native_throughout = True
    if request.native_only is not None:
        request.native_only.details = {
            "error_code": "thread_unsupported_request",
            "unsupported": ["thread"],
        }


def without_unsigned(params: PromptParams, body: dict[str, Any]) -> dict[str, Any]:
    """The body as it came, but for thoughts without a signature. Those are what another upstream
    thought earlier in the conversation, put into this wire's words by us; Anthropic signs its own
    and refuses a conversation that holds others."""
    if not any(_has_unsigned(turn) for turn in params.messages):
        return body
    turns = []
    for turn, as_came in zip(params.messages, body["messages"], strict=True):
        if isinstance(turn.content, str) or not _has_unsigned(turn):
            turns.append(as_came)
            continue
        pairs = zip(turn.content, as_came["content"], strict=True)
        content = [fields for block, fields in pairs if not _is_unsigned(block)]
        if content:
            turns.append({**as_came, "content": content})
    return {**body, "messages": turns}


def _has_unsigned(turn: Turn) -> bool:
    return not isinstance(turn.content, str) and any(map(_is_unsigned, turn.content))


def _is_unsigned(block: Block) -> bool:
    return block.type == "thinking" and not block.signature


def _translate(params: PromptParams, body: dict[str, Any], notes: Notes) -> dict[str, Any]:
    fields = _prompt_fields(params, body, notes)
    if isinstance(params, MessagesParams):
        fields |= _knobs(params, notes)
    for name in body.keys() - _TRANSLATED:
        if body[name] is not None and name not in _REFUSED:
            notes.dropped.add(name)
    for name, what in _REFUSED.items():
        if body.get(name):
            notes.refuse(name, what)
    _check_choice(params, notes)
    return fields


def _prompt_fields(params: PromptParams, body: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """What a model reads: the conversation, the tools, and how it is to answer."""
    conversation = Conversation(notes)
    conversation.add_system(params.system)
    for at, turn in enumerate(params.messages):
        conversation.add_turn(turn, f"messages[{at}]")
    if not conversation.messages:
        raise InvalidRequest(
            "Invalid value for 'messages': nothing is said in them.",
            param="messages",
            code="invalid_value",
        )
    fields: dict[str, Any] = {"messages": conversation.messages}
    if params.model is not None:
        fields["model"] = params.model
    if params.tools:
        tools = _tools(params.tools, body["tools"], notes)
        if tools:
            fields["tools"] = tools
            fields |= _tool_choice(params.tool_choice)
    config = params.output_config
    if config is not None:
        notes.dropped.update(
            f"output_config.{name}" for name in body["output_config"].keys() - {"effort", "format"}
        )
    effort = _effort(params.thinking, config.effort if config else None)
    if effort is not None:
        fields["reasoning_effort"] = effort
    form = (config.format if config else None) or params.output_format
    if form is not None:
        fields |= _response_format(form, notes)
    return fields


def _knobs(params: MessagesParams, notes: Notes) -> dict[str, Any]:
    """How long, how freely and for whom, by OpenAI's names."""
    tier = _SERVICE_TIERS.get(params.service_tier or "auto")
    if tier is None:
        notes.dropped.add("service_tier")
    fields: dict[str, Any] = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "stop": params.stop_sequences or None,
        "stream": params.stream,
        "user": params.metadata.user_id if params.metadata else None,
        "service_tier": tier if params.service_tier else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tools(
    tools: list[ToolDefinition], as_came: list[dict[str, Any]], notes: Notes
) -> list[dict[str, Any]]:
    found = []
    for at, (tool, fields) in enumerate(zip(tools, as_came, strict=True)):
        if not tool.is_custom:
            notes.refuse(f"tools[{at}].type", f"a tool of the type `{tool.type}`")
            continue
        notes.dropped.update(f"tools.{name}" for name in fields.keys() - _TOOL_FIELDS)
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = tool.input_schema
        if tool.strict is not None:
            function["strict"] = tool.strict
        translated = {"type": "function", "function": function}
        if tool.cache_control:
            translated["cache_control"] = tool.cache_control
        found.append(translated)
    return found


def _tool_choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    fields: dict[str, Any] = {}
    if choice.type == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = _TOOL_CHOICES[choice.type]
    if choice.disable_parallel_tool_use is not None:
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields


def _check_choice(params: PromptParams, notes: Notes) -> None:
    """A named tool must be offered. What Anthropic runs itself may offer more than we see."""
    choice = params.tool_choice
    if choice is None or choice.type != "tool" or notes.inexpressible is not None:
        return
    if all(tool.name != choice.name for tool in params.tools or ()):
        raise InvalidRequest(
            f"Invalid value for 'tool_choice.name': no tool `{choice.name}` is offered.",
            param="tool_choice.name",
            code="invalid_value",
        )


def _effort(thinking: Thinking | None, effort: str | None) -> str | None:
    """OpenAI's one knob for Anthropic's two. An adaptive model decides for itself."""
    if thinking is not None and thinking.type == "disabled":
        return "none"
    if effort is not None or thinking is None or thinking.budget_tokens is None:
        return effort
    if thinking.budget_tokens <= LOW_BUDGET:
        return "low"
    return "medium" if thinking.budget_tokens <= MEDIUM_BUDGET else "high"


def _response_format(form: OutputFormat, notes: Notes) -> dict[str, Any]:
    if form.type != "json_schema":
        notes.refuse("output_config.format.type", f"an output format `{form.type}`")
        return {}
    schema = {"name": "output", "schema": form.schema, "strict": is_strict(form.schema)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def is_strict(schema: Any) -> bool:
    """Whether OpenAI takes a schema as strict: every object closed, and all it names required.
    Anthropic takes more, and OpenAI refuses what it cannot hold a model to."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    named = schema.get("properties")
    if schema.get("type") == "object" or isinstance(named, dict):
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required") or ()) != set(named or ()):
            return False
    return all(
        is_strict(list(value.values()) if _names_schemas(name, value) else value)
        for name, value in schema.items()
        if name not in _VALUES
    )


def _names_schemas(name: str, value: Any) -> bool:
    """Whether a member holds schemas by names of the caller's choice."""
    return name in _NAMED_SCHEMAS and isinstance(value, dict)


_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
