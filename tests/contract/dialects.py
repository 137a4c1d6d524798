"""What an upstream says, whatever its wire: answers to put in its words, and who puts them.

A dialect scripts an upstream. `tests/contract/kinds.py` says which kind speaks which.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from chat.types import Wire
from tests import anthropic_upstream as anthropic
from tests.upstream import (
    DONE,
    NDJSON,
    chat_line,
    chunk,
    completion,
    event,
    last_line,
    line,
    usage_chunk,
)


@dataclass(frozen=True)
class Call:
    """A tool call, its arguments in the pieces a stream brings them in."""

    id: str
    name: str
    fragments: tuple[str, ...]

    @property
    def arguments(self) -> Any:
        return json.loads("".join(self.fragments))


@dataclass(frozen=True)
class Answer:
    """What a model says: thoughts, words, then calls; `cut` where its limit of tokens ended it."""

    thoughts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def finish(self) -> str:
        if self.cut:
            return "length"
        return "tool_calls" if self.calls else "stop"


@dataclass(frozen=True)
class Asked:
    """What a dialect's request says."""

    streams: bool
    offers_tools: bool
    question: str
    """The text of the last message."""
    answers_call: bool
    """Whether the last message is the result of a call."""


class Dialect(ABC):
    """Says one answer in one wire, whole and streamed, and everything that may go wrong in it."""

    wire: ClassVar[Wire]
    content_type: ClassVar[str] = "text/event-stream"
    counts: ClassVar[tuple[int, int]]
    """The tokens every answer reports: of the prompt, of the answer."""

    @abstractmethod
    def whole(self, answer: Answer) -> Any:
        """The body of an answer that is not streamed."""

    @abstractmethod
    def said(self, answer: Answer) -> list[bytes]:
        """The events of a stream before the one that says how the answer ended."""

    @abstractmethod
    def ended(self, answer: Answer) -> list[bytes]:
        """That one, and those after it."""

    @abstractmethod
    def error(self, message: str) -> Any:
        """The body of an answer whose status tells of an error."""

    @abstractmethod
    def error_event(self, message: str) -> bytes:
        """An error in the middle of a stream, of the kind that is the server's own fault."""

    @abstractmethod
    def odd_event(self, data: bytes) -> bytes:
        """An event that holds these bytes, whatever they are, in the framing of this wire."""

    @abstractmethod
    def listing(self, names: list[str]) -> Any:
        """The body that lists models."""

    def embedded(self, vectors: list[list[float]]) -> Any:
        """The body that holds these vectors; None where the wire has no embeddings."""
        return None

    @abstractmethod
    def read(self, body: dict[str, Any]) -> Asked:
        """What a request in this wire asks."""

    @abstractmethod
    def native(self, *, stream: bool) -> dict[str, Any]:
        """The body of a caller on this wire that says hello."""

    def stream(self, answer: Answer) -> list[bytes]:
        return [*self.said(answer), *self.ended(answer)]


class OpenAIDialect(Dialect):
    wire = "openai"
    counts = (9, 3)

    def whole(self, answer: Answer) -> Any:
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.fragments)},
            }
            for call in answer.calls
        ]
        message: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if answer.thoughts:
            message["reasoning_content"] = "".join(answer.thoughts)
        body = completion(answer.text or (None if calls else ""), **message)
        body["choices"][0]["finish_reason"] = answer.finish
        return body

    def said(self, answer: Answer) -> list[bytes]:
        events = [chunk(role="assistant", content="")]
        events += [chunk(reasoning_content=thought) for thought in answer.thoughts]
        events += [chunk(content=word) for word in answer.words]
        for index, call in enumerate(answer.calls):
            function = {"name": call.name, "arguments": ""}
            start = {"index": index, "id": call.id, "type": "function", "function": function}
            rest = [{"index": index, "function": {"arguments": each}} for each in call.fragments]
            events += [chunk(tool_calls=[each]) for each in (start, *rest)]
        return events

    def ended(self, answer: Answer) -> list[bytes]:
        return [chunk(answer.finish), usage_chunk(*self.counts), DONE]

    def error(self, message: str) -> Any:
        return {"error": {"message": message, "type": "told", "param": None, "code": None}}

    def error_event(self, message: str) -> bytes:
        return event({"error": {"message": message, "type": "server_error", "code": None}})

    def odd_event(self, data: bytes) -> bytes:
        return b"data: %b\n\n" % data

    def listing(self, names: list[str]) -> Any:
        listed = [{"id": name, "object": "model", "created": 1, "owned_by": "us"} for name in names]
        return {"object": "list", "data": listed}

    def embedded(self, vectors: list[list[float]]) -> Any:
        listed = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 9, "total_tokens": 9}
        return {"object": "list", "data": listed, "model": "m", "usage": usage}

    def read(self, body: dict[str, Any]) -> Asked:
        last = body["messages"][-1]
        return Asked(
            streams=body.get("stream") is True,
            offers_tools=bool(body.get("tools")),
            question=text_of(last.get("content")),
            answers_call=last["role"] == "tool",
        )

    def native(self, *, stream: bool) -> dict[str, Any]:
        return {"model": "x", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}


SIGNATURE = "EqQBsig+/=="


class AnthropicDialect(Dialect):
    wire = "anthropic"
    counts = (60, 7)

    def whole(self, answer: Answer) -> Any:
        thought = {"type": "thinking", "thinking": "".join(answer.thoughts), "signature": SIGNATURE}
        content = [thought] if answer.thoughts else []
        content += [anthropic.text(answer.text)] if answer.words else []
        content += [
            anthropic.tool_use(call.id, call.name, **call.arguments) for call in answer.calls
        ]
        return anthropic.message(*content, stop=self._stop(answer))

    def said(self, answer: Answer) -> list[bytes]:
        blocks = []
        if answer.thoughts:
            blocks.append(anthropic.thinking_block(0, *answer.thoughts, signature=SIGNATURE))
        if answer.words:
            blocks.append(anthropic.text_block(len(blocks), *answer.words))
        blocks += [
            anthropic.tool_block(index, call.id, call.name, *call.fragments)
            for index, call in enumerate(answer.calls, start=len(blocks))
        ]
        head = [anthropic.start(), anthropic.event("ping")]
        return [*head, *(each for block in blocks for each in block)]

    def ended(self, answer: Answer) -> list[bytes]:
        return anthropic.ending(self._stop(answer))

    def _stop(self, answer: Answer) -> str:
        if answer.cut:
            return "max_tokens"
        return "tool_use" if answer.calls else "end_turn"

    def error(self, message: str) -> Any:
        return anthropic.error("told", message)

    def error_event(self, message: str) -> bytes:
        return anthropic.event("error", error={"type": "api_error", "message": message})

    def odd_event(self, data: bytes) -> bytes:
        return b"event: content_block_delta\ndata: %b\n\n" % data

    def listing(self, names: list[str]) -> Any:
        listed = [
            {"type": "model", "id": name, "created_at": "2025-09-29T00:00:00Z"} for name in names
        ]
        return {"data": listed, "has_more": False, "last_id": None}

    def read(self, body: dict[str, Any]) -> Asked:
        content = body["messages"][-1]["content"]
        parts = content if isinstance(content, list) else []
        return Asked(
            streams=body.get("stream") is True,
            offers_tools=bool(body.get("tools")),
            question=text_of(content),
            answers_call=any(part["type"] == "tool_result" for part in parts),
        )

    def native(self, *, stream: bool) -> dict[str, Any]:
        hello = {"role": "user", "content": "Hello"}
        return {"model": "x", "max_tokens": 50, "messages": [hello], "stream": stream}


class OllamaDialect(Dialect):
    """An event is a line; a call is whole in one, its arguments an object."""

    wire = "ollama"
    content_type = NDJSON
    counts = (9, 3)

    def whole(self, answer: Answer) -> Any:
        message = {"content": answer.text, **self._calls(answer)}
        if answer.thoughts:
            message["thinking"] = "".join(answer.thoughts)
        return json.loads(last_line(self._reason(answer), **message))

    def said(self, answer: Answer) -> list[bytes]:
        lines = [chat_line(thinking=thought) for thought in answer.thoughts]
        lines += [chat_line(content=word) for word in answer.words]
        return lines + ([chat_line(**self._calls(answer))] if answer.calls else [])

    def ended(self, answer: Answer) -> list[bytes]:
        return [last_line(self._reason(answer))]

    def _calls(self, answer: Answer) -> dict[str, Any]:
        calls = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
        return {"tool_calls": calls} if calls else {}

    def _reason(self, answer: Answer) -> str:
        return "length" if answer.cut else "stop"

    def error(self, message: str) -> Any:
        return {"error": message}

    def error_event(self, message: str) -> bytes:
        return line({"error": message})

    def odd_event(self, data: bytes) -> bytes:
        return data + b"\n"

    def listing(self, names: list[str]) -> Any:
        return {"models": [{"name": name, "model": name} for name in names]}

    def embedded(self, vectors: list[list[float]]) -> Any:
        return {"model": "m", "embeddings": vectors, "prompt_eval_count": 9}

    def read(self, body: dict[str, Any]) -> Asked:
        last = body["messages"][-1]
        return Asked(
            streams=body.get("stream", True),
            offers_tools=bool(body.get("tools")),
            question=last.get("content") or "",
            answers_call=last["role"] == "tool",
        )

    def native(self, *, stream: bool) -> dict[str, Any]:
        return {"model": "x", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
