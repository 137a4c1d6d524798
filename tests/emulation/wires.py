"""A tool loop on each wire: how a caller offers a tool, hears a call, and tells its result."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from tests.gateway import Answered, Gateway

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": PARAMETERS,
    },
}
NOW: dict[str, Any] = {
    "type": "function",
    "function": {"name": "now", "description": "Tells the time."},
}


class Said(NamedTuple):
    """What an answer comes to: its text, its calls as id, name and arguments, and why it ended."""

    text: str
    calls: list[tuple[str, str, Any]]
    end: str | None


def sse(answered: Answered) -> list[Any]:
    blocks = answered.body.decode().split("\n\n")
    lines = [line for block in blocks for line in block.split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


class Loop(ABC):
    """One conversation, in the words of one wire."""

    path: ClassVar[str]
    stopped: ClassVar[str]
    """The word for an answer that is at its end."""
    wants: ClassVar[str]
    """The word for an answer that waits for results."""

    def __init__(self, gateway: Gateway, model: str, *, stream: bool) -> None:
        self.gateway = gateway
        self.model = model
        self.stream = stream
        self.history: list[Any] = []
        self.answered: Answered

    def ask(self, text: str) -> Said:
        self.history.append({"role": "user", "content": text})
        return self.go_on()

    def go_on(self) -> Said:
        body = {"model": self.model, "stream": self.stream, **self.body()}
        self.answered = self.gateway.post(self.path, body)
        assert self.answered.status == 200, self.answered.body
        said = self.read(sse(self.answered) if self.stream else self.answered.json())
        self.note(said)
        return said

    @abstractmethod
    def body(self) -> dict[str, Any]: ...

    @abstractmethod
    def read(self, told: Any) -> Said: ...

    @abstractmethod
    def note(self, said: Said) -> None:
        """Puts an answer in the history."""

    @abstractmethod
    def tell(self, call: tuple[str, str, Any], result: str) -> None:
        """Puts the result of a call in the history."""


class OpenAI(Loop):
    path = "/v1/chat/completions"
    stopped, wants = "stop", "tool_calls"

    def body(self) -> dict[str, Any]:
        return {"messages": self.history, "tools": [WEATHER, NOW]}

    def read(self, told: Any) -> Said:
        return read_chunks(told) if self.stream else read_completion(told)

    def note(self, said: Said) -> None:
        calls = [
            {
                "id": id_,
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given)},
            }
            for id_, name, given in said.calls
        ]
        self.history.append(
            {
                "role": "assistant",
                "content": said.text or None,
                **({"tool_calls": calls} if calls else {}),
            }
        )

    def tell(self, call: tuple[str, str, Any], result: str) -> None:
        self.history.append({"role": "tool", "tool_call_id": call[0], "content": result})


def read_completion(told: Any) -> Said:
    (choice,) = told["choices"]
    message = choice["message"]
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    ]
    return Said(message["content"] or "", calls, choice["finish_reason"])


def read_chunks(told: list[Any]) -> Said:
    """As the SDKs add chunks up, and stricter: no gaps between places, id and name once (M28)."""
    text, end = "", None
    calls: list[list[str]] = []
    for choice in (choice for chunk in told for choice in chunk["choices"]):
        text += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls") or ():
            function = call["function"]
            if "id" in call:
                assert call["index"] == len(calls)
                assert call["type"] == "function"
                calls.append([call["id"], function["name"], ""])
            else:
                assert call["index"] == len(calls) - 1
                assert function.keys() == {"arguments"}
            calls[-1][2] += function["arguments"]
        end = choice["finish_reason"] or end
    return Said(text, [(id_, name, json.loads(given)) for id_, name, given in calls], end)


class Anthropic(Loop):
    path = "/v1/messages"
    stopped, wants = "end_turn", "tool_use"

    def body(self) -> dict[str, Any]:
        tools = [
            {
                "name": tool["function"]["name"],
                "input_schema": tool["function"].get("parameters", {"type": "object"}),
            }
            for tool in (WEATHER, NOW)
        ]
        return {"messages": self.history, "tools": tools, "max_tokens": 100}

    def read(self, told: Any) -> Said:
        message = message_of(told) if self.stream else told
        blocks = message["content"]
        return Said(
            "".join(block["text"] for block in blocks if block["type"] == "text"),
            [
                (block["id"], block["name"], block["input"])
                for block in blocks
                if block["type"] == "tool_use"
            ],
            message["stop_reason"],
        )

    def note(self, said: Said) -> None:
        texts = [{"type": "text", "text": said.text}] if said.text else []
        uses = [
            {"type": "tool_use", "id": id_, "name": name, "input": given}
            for id_, name, given in said.calls
        ]
        self.history.append({"role": "assistant", "content": [*texts, *uses]})

    def tell(self, call: tuple[str, str, Any], result: str) -> None:
        block = {"type": "tool_result", "tool_use_id": call[0], "content": result}
        if self.history[-1]["role"] == "user":
            self.history[-1]["content"].append(block)
        else:
            self.history.append({"role": "user", "content": [block]})


def message_of(events: list[Any]) -> dict[str, Any]:
    """The message that a stream of Anthropic's events adds up to."""
    message: dict[str, Any] = {}
    given: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                delta = event["delta"]
                if delta["type"] == "text_delta":
                    message["content"][event["index"]]["text"] += delta["text"]
                else:
                    given[event["index"]] = given.get(event["index"], "") + delta["partial_json"]
            case "message_delta":
                message.update(event["delta"])
    for index, written in given.items():
        message["content"][index]["input"] = json.loads(written or "{}")
    return message


class Ollama(Loop):
    path = "/api/chat"
    stopped = wants = "stop"

    def body(self) -> dict[str, Any]:
        return {"messages": self.history, "tools": [WEATHER, NOW]}

    def go_on(self) -> Said:
        body = {"model": self.model, "stream": self.stream, **self.body()}
        self.answered = self.gateway.post(self.path, body)
        assert self.answered.status == 200, self.answered.body
        lines = [json.loads(line) for line in self.answered.body.decode().split("\n") if line]
        said = self.read(lines)
        self.note(said)
        return said

    def read(self, told: Any) -> Said:
        messages = [line.get("message") or {} for line in told]
        calls = [call["function"] for each in messages for call in each.get("tool_calls") or ()]
        return Said(
            "".join(each.get("content") or "" for each in messages),
            [(call["name"], call["name"], call["arguments"]) for call in calls],
            told[-1]["done_reason"],
        )

    def note(self, said: Said) -> None:
        calls = [{"function": {"name": name, "arguments": given}} for _, name, given in said.calls]
        self.history.append({"role": "assistant", "content": said.text, "tool_calls": calls})

    def tell(self, call: tuple[str, str, Any], result: str) -> None:
        self.history.append({"role": "tool", "tool_name": call[1], "content": result})


class Responses(Loop):
    path = "/v1/responses"
    stopped = wants = "completed"

    def body(self) -> dict[str, Any]:
        nothing = {"parameters": {"type": "object", "properties": {}}}
        tools = [{"type": "function", **nothing, **tool["function"]} for tool in (WEATHER, NOW)]
        return {"input": self.history, "tools": tools, "store": False}

    def read(self, told: Any) -> Said:
        response = told[-1]["response"] if self.stream else told
        items = response["output"]
        texts = [
            part["text"] for item in items if item["type"] == "message" for part in item["content"]
        ]
        calls = [
            (item["call_id"], item["name"], json.loads(item["arguments"]))
            for item in items
            if item["type"] == "function_call"
        ]
        self._items = items
        return Said("".join(texts), calls, response["status"])

    def note(self, said: Said) -> None:
        self.history += self._items

    def tell(self, call: tuple[str, str, Any], result: str) -> None:
        self.history.append({"type": "function_call_output", "call_id": call[0], "output": result})


WIRES: tuple[type[Loop], ...] = (OpenAI, Anthropic, Ollama, Responses)
