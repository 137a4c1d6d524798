"""Which tools an answer may call, must call, and how many: `tools`, `functions`, `tool_choice` and
`parallel_tool_calls` of a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chat.errors import InvalidRequest, ToolChoiceNotMet
from chat.requests import ChatRequest, FunctionDefinition
from chat.types import ChatChunk

MOST_WITHHELD = 100_000
"""Chunks, thoughts too. A model that has said so much owes its call in vain."""
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """What the answer owes the caller: a call of one of `demanded` when not empty, and not more
    than one call when `single`."""

    demanded: frozenset[str] = frozenset()
    single: bool = False

    def admits(self, name: str, *, after: int) -> bool:
        """Whether a call is shown that comes after so many others."""
        return not (self.single and after) and (not self.demanded or name in self.demanded)


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools that may be called, by their names, each in the shape of `tools[].function`; none
    where none may."""

    tools: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    is_strict: bool = False
    """Whether the caller wants arguments held to a schema while they are written."""
    policy: ToolPolicy = ToolPolicy()

    @property
    def instruction(self) -> str | None:
        """What the model is told of the call it owes."""
        if not self.policy.demanded:
            return None
        if len(self.tools) == 1:
            return f"You must answer by calling the tool {next(iter(self.tools))}."
        return "You must answer by calling one of the tools you are offered."


def read_offer(request: ChatRequest) -> Offer:
    """What a request offers its model. Raises InvalidRequest for tools and choices that cannot be
    followed, naming the field."""
    params = request.params
    declared = {function["name"]: function for function in _declared(request)}
    choice = params.tool_choice
    if choice is None and params.functions and params.function_call is not None:
        choice = _of_function_call(params.function_call)
    mode, names = read_choice(choice, declared)
    if mode == "none":
        return Offer()
    offered = {name: each for name, each in declared.items() if names is None or name in names}
    demanded = frozenset(offered) if mode == "required" else frozenset()
    single = bool(offered) and (params.parallel_tool_calls is False or not params.tools)
    strict = any(tool.function and tool.function.strict for tool in params.tools or ())
    return Offer(offered, strict, ToolPolicy(demanded, single=single))


def demands_call(choice: str | dict[str, Any] | None) -> bool:
    """Whether a `tool_choice` says that the answer must be a call."""
    if isinstance(choice, dict):
        allowed = choice.get("allowed_tools")
        mode = allowed.get("mode") if isinstance(allowed, dict) else None
        return choice.get("type") == "function" or mode == "required"
    return choice == "required"


def no_call() -> ToolChoiceNotMet:
    """An answer without the call it owes."""
    return ToolChoiceNotMet(
        "The model did not call a tool, which `tool_choice` demands.", param="tool_choice"
    )


class Withheld:
    """What a stream that owes a call brings before the call: nothing of it is shown until then, so
    that a refusal can still have a status."""

    def __init__(self, policy: ToolPolicy) -> None:
        self._chunks: list[ChatChunk] | None = [] if policy.demanded else None

    def shown(self, chunks: list[ChatChunk], *, called: bool) -> list[ChatChunk]:
        """What may be shown now that these have come."""
        if self._chunks is None:
            return chunks
        self._chunks += chunks
        if not called:
            return []
        chunks, self._chunks = self._chunks, None
        return chunks

    @property
    def is_too_much(self) -> bool:
        return self._chunks is not None and len(self._chunks) > MOST_WITHHELD


def _declared(request: ChatRequest) -> Iterator[dict[str, Any]]:
    for at, tool in enumerate(request.params.tools or ()):
        if tool.type != "function" or tool.function is None:
            raise InvalidRequest(
                f"This provider has no tools of type `{tool.type[:64]}`.",
                param=f"tools[{at}].type",
                code="unsupported_parameter",
            )
        yield _told(tool.function)
    for function in request.params.functions or ():
        yield _told(function)


def _told(function: FunctionDefinition) -> dict[str, Any]:
    told: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        told["description"] = function.description
    return {**told, "parameters": function.parameters or _NO_ARGUMENTS}


def _of_function_call(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    """The older field's words in those of `tool_choice`."""
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": choice}


def read_choice(choice: Any, offered: Mapping[str, Any]) -> tuple[str, frozenset[str] | None]:
    """`tool_choice` as none, auto or required, and the names it narrows the tools to; `offered`:
    the tools by name. Raises InvalidRequest."""
    if choice is None:
        return "auto", None
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise _bad_choice("`tool_choice` must be none, auto, required or an object.")
        mode, names = choice, None
    else:
        mode, names = _choice_object(choice)
    unknown = sorted((names or frozenset()) - offered.keys())
    if unknown:
        raise _bad_choice(
            f"`tool_choice` names the tool {unknown[0][:64]!r}, which is not offered."
        )
    if mode == "required" and not offered:
        raise _bad_choice("`tool_choice` demands a call, and no tools are offered.")
    return mode, names


def _choice_object(choice: dict[str, Any]) -> tuple[str, frozenset[str]]:
    try:
        if choice.get("type") == "function":
            return "required", frozenset({str(choice["function"]["name"])})
        if choice.get("type") == "allowed_tools":
            allowed = choice["allowed_tools"]
            mode = str(allowed.get("mode", "auto"))
            names = frozenset(str(tool["function"]["name"]) for tool in allowed["tools"])
            if mode in ("auto", "required") and names:
                return mode, names
    except (KeyError, TypeError, AttributeError):
        pass
    raise _bad_choice("`tool_choice` is an object this provider cannot follow.")


def _bad_choice(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="tool_choice", code="invalid_value")
