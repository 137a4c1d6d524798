"""Chunks of a chat completion to the items of a response, and to the events that tell of them.

One state machine for both forms of an answer: what is streamed and what is returned whole cannot
say different things. Items are told one after the other; calls stay open until the end, because
upstreams may interleave their arguments (M28).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chat.types import ChatChunk, ChunkChoice, Delta, ToolCallDelta, Usage
from gateway_api.openai.responses.items import Item, seal
from gateway_api.openai.responses.resource import usage_object
from sessions_app.ids import new_id

Event = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_LEGACY_CALL = -1
"""The place of a `function_call`, which has no index."""


@dataclass(slots=True)
class _Message:
    item: Item
    at: int
    part: dict[str, Any] | None = None
    texts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Thought:
    item: Item
    at: int
    texts: list[str] = field(default_factory=list)
    sealed: dict[str, Any] = field(default_factory=dict)
    returnable: bool = True
    """Whether the text came under the name upstreams take back."""


@dataclass(slots=True)
class _Call:
    item: Item
    at: int = -1
    """Its place in the output; -1 while its name is not known."""
    arguments: list[str] = field(default_factory=list)


class ResponseBuilder:
    """One answer. `add` and `finish` return the events, without their sequence numbers."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self.usage: Usage | None = None
        self._begun = False
        self._finish: str | None = None
        self._items: list[Item] = []
        self._message: _Message | None = None
        self._thought: _Thought | None = None
        self._calls: dict[int, _Call] = {}
        self._call_ids: set[str] = set()

    def begin(self) -> list[Event]:
        """The events before any output; once."""
        if self._begun:
            return []
        self._begun = True
        head = {**self.response, "status": "in_progress", "output": []}
        return [
            {"type": "response.created", "response": head},
            {"type": "response.in_progress", "response": head},
        ]

    def add(self, chunks: Sequence[ChatChunk]) -> list[Event]:
        """What these chunks bring."""
        if not self._begun and chunks and chunks[0].model:
            self.response["model"] = chunks[0].model
        events = self.begin()
        for chunk in chunks:
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in chunk.choices:
                if choice.index == 0:
                    events += self._add_choice(choice)
        return events

    def finish(self) -> list[Event]:
        """Closes what is open and ends the response: completed or incomplete, which is also what
        is told of an answer that does not say why it ended (M26)."""
        events = self.begin()
        reason = _INCOMPLETE.get(self._finish or "")
        status = "incomplete" if reason or self._finish is None else "completed"
        events += self._close_all(status)
        if not self._items and not reason:
            events += [*self._open_message(), *self._open_part("output_text")]
            events += self._close_message(status)
        self.response.update(
            status=status,
            output=self._items,
            usage=usage_object(self.usage),
            incomplete_details={"reason": reason} if reason else None,
        )
        if status == "completed":
            self.response["completed_at"] = int(time.time())
        return [*events, {"type": f"response.{status}", "response": self.response}]

    def break_off(self) -> dict[str, Any]:
        """The response as far as it came, for one that has failed."""
        self._close_all("incomplete")
        self.response.update(output=self._items, usage=usage_object(self.usage))
        return self.response

    def _close_all(self, status: str) -> list[Event]:
        return [*self._close_thought(), *self._close_message(status), *self._close_calls(status)]

    def _add_choice(self, choice: ChunkChoice) -> list[Event]:
        delta = choice.delta
        events: list[Event] = []
        if delta.reasoning_content or delta.reasoning or delta.thinking_blocks:
            events += self._think(delta)
        if delta.content:
            events += self._say(delta.content, choice.logprobs)
        if delta.refusal:
            events += self._refuse(delta.refusal)
        for call in delta.tool_calls or ():
            events += self._call(call)
        if delta.function_call is not None:
            events += self._call(ToolCallDelta(_LEGACY_CALL, function=delta.function_call))
        self._finish = choice.finish_reason or self._finish
        return events

    # --- items ----------------------------------------------------------------------------------

    def _append(self, item: Item) -> int:
        self._items.append(item)
        return len(self._items) - 1

    def _added(self, at: int) -> Event:
        return {
            "type": "response.output_item.added",
            "output_index": at,
            "item": dict(self._items[at]),
        }

    def _done(self, at: int) -> Event:
        return {"type": "response.output_item.done", "output_index": at, "item": self._items[at]}

    # --- reasoning ------------------------------------------------------------------------------

    def _think(self, delta: Delta) -> list[Event]:
        events: list[Event] = []
        text = delta.reasoning_content or delta.reasoning or ""
        if text or self._thought is None:
            events += self._close_message("completed")
        thought = self._thought
        if thought is None:
            item: Item = {"id": new_id("rs"), "type": "reasoning", "summary": []}
            thought = self._thought = _Thought(item, self._append(item))
            events.append(self._added(thought.at))
        if delta.thinking_blocks:
            thought.sealed.setdefault("thinking_blocks", []).extend(delta.thinking_blocks)
        if not text:
            return events
        thought.returnable = thought.returnable and bool(delta.reasoning_content)
        place = {"item_id": thought.item["id"], "output_index": thought.at, "summary_index": 0}
        if not thought.texts:
            events.append(
                {
                    "type": "response.reasoning_summary_part.added",
                    **place,
                    "part": {"type": "summary_text", "text": ""},
                }
            )
        thought.texts.append(text)
        events.append({"type": "response.reasoning_summary_text.delta", **place, "delta": text})
        return events

    def _close_thought(self) -> list[Event]:
        thought, self._thought = self._thought, None
        if thought is None:
            return []
        events: list[Event] = []
        text = "".join(thought.texts)
        if text:
            part = {"type": "summary_text", "text": text}
            thought.item["summary"] = [part]
            place = {"item_id": thought.item["id"], "output_index": thought.at, "summary_index": 0}
            events = [
                {"type": "response.reasoning_summary_text.done", **place, "text": text},
                {"type": "response.reasoning_summary_part.done", **place, "part": part},
            ]
            if thought.returnable and not thought.sealed:
                thought.sealed["reasoning_content"] = text
        if thought.sealed:
            thought.item["encrypted_content"] = seal(thought.sealed)
        return [*events, self._done(thought.at)]

    # --- the message ----------------------------------------------------------------------------

    def _say(self, text: str, logprobs: Any) -> list[Event]:
        events = [*self._close_thought(), *self._open_message(), *self._open_part("output_text")]
        message = self._message
        assert message is not None
        assert message.part is not None
        told = _logprobs(logprobs)
        message.texts.append(text)
        message.part["logprobs"] += told
        place = self._part_place(message)
        return [
            *events,
            {"type": "response.output_text.delta", **place, "delta": text, "logprobs": told},
        ]

    def _refuse(self, text: str) -> list[Event]:
        events = [*self._close_thought(), *self._open_message(), *self._open_part("refusal")]
        message = self._message
        assert message is not None
        message.texts.append(text)
        place = self._part_place(message)
        return [*events, {"type": "response.refusal.delta", **place, "delta": text}]

    def _open_message(self) -> list[Event]:
        if self._message is not None:
            return []
        item: Item = {
            "id": new_id("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self._message = _Message(item, self._append(item))
        return [{**self._added(self._message.at), "item": {**item, "content": []}}]

    def _open_part(self, kind: str) -> list[Event]:
        message = self._message
        assert message is not None
        if message.part is not None and message.part["type"] == kind:
            return []
        events = self._close_part()
        message.part = {"type": kind, "refusal": ""}
        if kind == "output_text":
            message.part = {"type": kind, "text": "", "annotations": [], "logprobs": []}
        message.item["content"].append(message.part)
        part = {**message.part, **({"logprobs": []} if kind == "output_text" else {})}
        place = self._part_place(message)
        return [*events, {"type": "response.content_part.added", **place, "part": part}]

    def _part_place(self, message: _Message) -> dict[str, Any]:
        return {
            "item_id": message.item["id"],
            "output_index": message.at,
            "content_index": len(message.item["content"]) - 1,
        }

    def _close_part(self) -> list[Event]:
        message = self._message
        if message is None or message.part is None:
            return []
        part, text = message.part, "".join(message.texts)
        place = self._part_place(message)
        message.part, message.texts = None, []
        ending: Event
        if part["type"] == "refusal":
            part["refusal"] = text
            ending = {"type": "response.refusal.done", **place, "refusal": text}
        else:
            part["text"] = text
            ending = {
                "type": "response.output_text.done",
                **place,
                "text": text,
                "logprobs": part["logprobs"],
            }
        return [ending, {"type": "response.content_part.done", **place, "part": part}]

    def _close_message(self, status: str) -> list[Event]:
        events = self._close_part()
        message, self._message = self._message, None
        if message is None:
            return []
        message.item["status"] = status
        return [*events, self._done(message.at)]

    # --- calls ----------------------------------------------------------------------------------

    def _call(self, delta: ToolCallDelta) -> list[Event]:
        events = [*self._close_thought(), *self._close_message("completed")]
        call = self._calls.get(delta.index)
        if call is None:
            item: Item = {
                "id": new_id("fc"),
                "type": "function_call",
                "status": "in_progress",
                "arguments": "",
                "call_id": "",
                "name": "",
            }
            call = self._calls[delta.index] = _Call(item)
        function = delta.function
        call.item["call_id"] = call.item["call_id"] or delta.id or ""
        if function is not None:
            call.item["name"] = call.item["name"] or function.name or ""
        arguments = (function.arguments if function else None) or ""
        if call.at < 0:
            if arguments:
                call.arguments.append(arguments)
            return [*events, *(self._open_call(call) if call.item["name"] else ())]
        if arguments:
            call.arguments.append(arguments)
            events.append(self._arguments(call, arguments))
        return events

    def _open_call(self, call: _Call) -> list[Event]:
        # Two calls under one id could not be answered apart, and the SDK dies of them.
        if call.item["call_id"] in self._call_ids | {""}:
            call.item["call_id"] = new_id("call")
        self._call_ids.add(call.item["call_id"])
        call.at = self._append(call.item)
        events = [self._added(call.at)]
        if call.arguments:
            events.append(self._arguments(call, "".join(call.arguments)))
        return events

    def _arguments(self, call: _Call, text: str) -> Event:
        return {
            "type": "response.function_call_arguments.delta",
            "item_id": call.item["id"],
            "output_index": call.at,
            "delta": text,
        }

    def _close_calls(self, status: str) -> list[Event]:
        events: list[Event] = []
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if call.at < 0:
                events += self._open_call(call)
            call.item.update(arguments="".join(call.arguments), status=status)
            events.append(
                {
                    "type": "response.function_call_arguments.done",
                    "item_id": call.item["id"],
                    "output_index": call.at,
                    "name": call.item["name"],
                    "arguments": call.item["arguments"],
                }
            )
            events.append(self._done(call.at))
        return events


def _logprobs(logprobs: Any) -> list[dict[str, Any]]:
    """Chat's log probabilities in the Responses API's shape, which knows no null."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [
        {
            **_logprob(each),
            "top_logprobs": [
                _logprob(other)
                for other in _list(each.get("top_logprobs"))
                if isinstance(other, dict)
            ],
        }
        for each in _list(content)
        if isinstance(each, dict)
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _logprob(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "token": told.get("token") or "",
        "bytes": told.get("bytes") or [],
        "logprob": told.get("logprob", 0.0),
    }
