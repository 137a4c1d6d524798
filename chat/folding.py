"""Chunks to completion and back: both forms of an answer say the same thing."""

from __future__ import annotations

from typing import Any

import msgspec

from chat.types import ChatChunk, ChunkChoice, Delta, FunctionDelta, ToolCallDelta, Usage


class CompletionFolder:
    """Adds chunks up to one chat completion (the shape of a non-streamed answer)."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {"id": "", "created": 0, "model": ""}
        self._choices: dict[int, _ChoiceFolder] = {}
        self.usage: Usage | None = None

    def add(self, chunk: ChatChunk) -> None:
        for name in ("id", "created", "model"):
            self._head[name] = self._head[name] or getattr(chunk, name)
        if chunk.usage is not None:
            self.usage = chunk.usage
        for choice in chunk.choices:
            self._choices.setdefault(choice.index, _ChoiceFolder()).add(choice)

    def completion(self) -> dict[str, Any]:
        """The completion as plain JSON values."""
        return {
            "id": self._head["id"],
            "object": "chat.completion",
            "created": self._head["created"],
            "model": self._head["model"],
            "choices": [
                {"index": index, **self._choices[index].choice()} for index in sorted(self._choices)
            ],
            "usage": usage_fields(self.usage),
        }


class _ChoiceFolder:
    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._thinking: list[dict[str, Any]] = []
        self._finish: str | None = None
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, choice: ChunkChoice) -> None:
        delta = choice.delta
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            text = getattr(delta, name)
            if text is not None:
                self._texts.setdefault(name, []).append(text)
        for call in delta.tool_calls or ():
            self._add_call(call)
        self._thinking += delta.thinking_blocks or ()
        for name, entries in (choice.logprobs or {}).items():
            self._logprobs.setdefault(name, []).extend(entries or ())
        self._finish = choice.finish_reason or self._finish

    def _add_call(self, delta: ToolCallDelta) -> None:
        call = self._calls.setdefault(
            delta.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = call["id"] or delta.id or ""
        if delta.function is not None:
            call["function"]["name"] = call["function"]["name"] or delta.function.name or ""
            call["function"]["arguments"] += delta.function.arguments or ""

    def choice(self) -> dict[str, Any]:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        message: dict[str, Any] = {
            "role": "assistant",
            "content": texts.get("content") or (None if self._calls else ""),
            "refusal": texts.get("refusal"),
        }
        for name in ("reasoning_content", "reasoning"):
            if texts.get(name):
                message[name] = texts[name]
        if self._thinking:
            message["thinking_blocks"] = self._thinking
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return {
            "message": message,
            "logprobs": self._logprobs or None,
            "finish_reason": self._finish,
        }


def usage_fields(usage: Usage | None) -> dict[str, Any] | None:
    """Usage as a completion carries it, with its total made good where an upstream left it out."""
    if usage is None:
        return None
    completion = usage.completion_tokens or 0
    fields: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": usage.total_tokens or usage.prompt_tokens + completion,
    }
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = getattr(usage, name)
        if details is not None:
            fields[name] = msgspec.to_builtins(details)
    if usage.estimated is True:
        fields["estimated"] = True
    return fields


def unfold(completion: dict[str, Any]) -> list[ChatChunk]:
    """The chunks of a whole completion: for an upstream that answers a stream with plain JSON."""
    head: dict[str, Any] = {name: completion.get(name) or default for name, default in _HEAD}
    head["object"] = "chat.completion.chunk"
    chunks = []
    for choice in completion.get("choices") or ():
        message, index = choice.get("message") or {}, choice.get("index") or 0
        calls = message.get("tool_calls") or ()
        delta = Delta(
            role="assistant",
            content=message.get("content") or "",
            refusal=message.get("refusal"),
            reasoning_content=message.get("reasoning_content"),
            reasoning=message.get("reasoning"),
            thinking_blocks=message.get("thinking_blocks"),
            tool_calls=[_call_delta(at, call) for at, call in enumerate(calls)] or None,
        )
        start = ChunkChoice(index=index, delta=delta, logprobs=choice.get("logprobs"))
        end = ChunkChoice(index=index, delta=Delta(), finish_reason=choice.get("finish_reason"))
        chunks += [ChatChunk(choices=[start], **head), ChatChunk(choices=[end], **head)]
    return chunks


_HEAD = (("id", ""), ("created", 0), ("model", ""))


def _call_delta(index: int, call: dict[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(
        index=index,
        id=call.get("id"),
        type="function",
        function=FunctionDelta(name=function.get("name"), arguments=function.get("arguments")),
    )
