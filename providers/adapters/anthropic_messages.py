"""An OpenAI history as Anthropic's `system` and `messages`.

Anthropic wants system prompts apart from the turns, turns that alternate, and the results of a
turn's tool calls at the start of the next one. Repairs keep every word where the meaning allows;
what cannot be told upstream is refused with the place's name.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

from chat.errors import InvalidRequest
from providers.adapters.anthropic_content import Block, mark_last, read_blocks

_ODD_ID = re.compile(r"[^a-zA-Z0-9_-]")


class Conversation(NamedTuple):
    system: list[Block]
    messages: list[dict[str, Any]]


def read_conversation(messages: list[dict[str, Any]], dropped: set[str]) -> Conversation:
    """The conversation in Anthropic's shape. Raises InvalidRequest naming the message. Names of
    what is left out go to `dropped`.

    A history of system messages alone is sent as the user's turn: upstream there is no answer to a
    system prompt. A last assistant turn is prefill, which must not end in white space.
    """
    history = _History(dropped)
    for at, message in enumerate(messages):
        history.add(message, f"messages[{at}]")
    history.finish()
    system, turns = history.system, history.turns
    if not turns:
        if not system:
            raise InvalidRequest("`messages` holds no content.", param="messages")
        system, turns = [], [{"role": "user", "content": system}]
    last = turns[-1]["content"][-1]
    if turns[-1]["role"] == "assistant" and last["type"] == "text":
        last["text"] = last["text"].rstrip()
    return Conversation(system, turns)


class _History:
    """The turns read so far. Those of one role that follow each other are joined; the open turn's
    blocks are kept by kind, so that they come out in the order Anthropic wants: results before a
    user's words, thinking before and calls after an assistant's."""

    def __init__(self, dropped: set[str]) -> None:
        self.system: list[Block] = []
        self.turns: list[dict[str, Any]] = []
        self._dropped = dropped
        self._role = ""
        self._before: list[Block] = []
        self._words: list[Block] = []
        self._after: list[Block] = []
        self._unanswered: dict[str, str] = {}
        """Calls of the last assistant turn without a result: their id and their place."""

    def add(self, message: dict[str, Any], param: str) -> None:
        role = message["role"]
        if message.get("name") and role != "tool":
            self._dropped.add("messages.name")
        if role == "user":
            if blocks := self._blocks(message, param):
                self._open("user")
                self._words += blocks
        elif role == "assistant":
            self._add_assistant(message, param)
        elif role == "tool":
            result = self._tool_result(message, param)
            self._open("user")
            self._before.append(result)
        elif role == "function":
            raise InvalidRequest(
                "Messages of the role 'function' cannot be sent to this model; use 'tool'.",
                param=f"{param}.role",
                code="unsupported_value",
            )
        else:
            self.system += self._blocks(message, param)

    def finish(self) -> None:
        self._close()
        self._refuse_unanswered()

    def _open(self, role: str) -> None:
        if role != self._role:
            self._close()
            self._role = role

    def _close(self) -> None:
        blocks = self._before + self._words + self._after
        if blocks:
            self.turns.append({"role": self._role, "content": blocks})
        if self._role == "user":
            self._refuse_unanswered()
        self._before, self._words, self._after = [], [], []

    def _refuse_unanswered(self) -> None:
        for called, param in self._unanswered.items():
            raise InvalidRequest(
                f"The tool call '{called[:64]}' has no message of the role 'tool' that answers it "
                "before the next assistant message.",
                param=param,
                code="missing_tool_result",
            )

    def _blocks(self, message: dict[str, Any], param: str) -> list[Block]:
        blocks = read_blocks(message.get("content"), f"{param}.content", self._dropped)
        mark_last(blocks, message, self._dropped)
        return blocks

    def _add_assistant(self, message: dict[str, Any], param: str) -> None:
        if message.get("function_call"):
            raise InvalidRequest(
                "`function_call` cannot be sent to this model; use `tool_calls`.",
                param=f"{param}.function_call",
                code="unsupported_value",
            )
        thinking = self._thinking(message, param)
        words = self._blocks(message, param)
        if not words and message.get("refusal"):
            words = read_blocks(message["refusal"], f"{param}.refusal", self._dropped)
        calls = [
            self._tool_use(call, f"{param}.tool_calls[{at}]")
            for at, call in enumerate(message.get("tool_calls") or ())
        ]
        if thinking or words or calls:
            self._open("assistant")
            self._before += thinking
            self._words += words
            for at, call in enumerate(calls):
                self._await_result(call["id"], f"{param}.tool_calls[{at}]")
            self._after += calls

    def _await_result(self, called: str, param: str) -> None:
        if called in self._unanswered:
            raise InvalidRequest(
                f"The tool call id '{called[:64]}' stands twice in one turn.",
                param=f"{param}.id",
                code="invalid_value",
            )
        self._unanswered[called] = param

    def _thinking(self, message: dict[str, Any], param: str) -> list[Block]:
        """Thinking blocks as they came, to the letter (M32). Without a signature (another
        provider's reasoning) Anthropic takes none."""
        blocks = message.get("thinking_blocks") or []
        for at, block in enumerate(blocks):
            if block.get("type") not in ("thinking", "redacted_thinking"):
                raise InvalidRequest(
                    "A thinking block has the type 'thinking' or 'redacted_thinking'.",
                    param=f"{param}.thinking_blocks[{at}].type",
                    code="invalid_value",
                )
        signed = [block for block in blocks if block.get("signature") or block.get("data")]
        if len(signed) < len(blocks):
            self._dropped.add("messages.thinking_blocks")
        elif not blocks and message.get("reasoning_content"):
            self._dropped.add("messages.reasoning_content")
        return signed

    def _tool_use(self, call: dict[str, Any], param: str) -> Block:
        function = call.get("function")
        if not isinstance(function, dict):
            raise InvalidRequest(
                "Only tool calls of the type 'function' can be sent to this model.",
                param=f"{param}.type",
                code="unsupported_value",
            )
        block = {
            "type": "tool_use",
            "id": tool_id(call["id"]),
            "name": function["name"],
            "input": _arguments(function["arguments"], f"{param}.function.arguments"),
        }
        mark_last([block], call, self._dropped)
        return block

    def _tool_result(self, message: dict[str, Any], param: str) -> Block:
        answered = tool_id(message["tool_call_id"])
        if self._unanswered.pop(answered, None) is None:
            raise InvalidRequest(
                f"The message answers '{answered[:64]}', which is no open tool call of the "
                "assistant message before it.",
                param=f"{param}.tool_call_id",
                code="invalid_value",
            )
        block: Block = {"type": "tool_result", "tool_use_id": answered}
        content = read_blocks(message.get("content"), f"{param}.content", self._dropped)
        # A mark belongs on a block of the turn: what stands inside a result cannot carry one.
        marks = [mark for each in content if (mark := each.pop("cache_control", None))]
        if content:
            block["content"] = content
        if marks:
            block["cache_control"] = marks[-1]
        mark_last([block], message, self._dropped)
        return block


def tool_id(called: str) -> str:
    """A call's id in the letters Anthropic takes; its own `toolu_…` stay as they are."""
    return _ODD_ID.sub("_", called)


def _arguments(told: str, param: str) -> dict[str, Any]:
    """Arguments as an object; models write nothing at all where a tool takes none (M30)."""
    if not told.strip():
        return {}
    try:
        arguments = orjson.loads(told)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The arguments of a tool call must be JSON: {error}.",
            param=param,
            code="invalid_json",
        ) from None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            "The arguments of a tool call must be a JSON object.", param=param, code="invalid_type"
        )
    return arguments
