"""Turns of a Messages request as messages of a chat completion request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from chat.errors import InvalidRequest
from gateway_api.anthropic.shapes import Block, Source, Turn

Part = dict[str, Any]
Message = dict[str, Any]


@dataclass(slots=True)
class Notes:
    """What a translation could not carry over."""

    dropped: set[str] = field(default_factory=set)
    """Fields left out; the answer stays what was asked for."""
    inexpressible: InvalidRequest | None = None
    """The first thing without which it would not be the same request."""

    def refuse(self, place: str, what: str) -> None:
        """Notes that `what` at `place` means something to Anthropic's own API only."""
        if self.inexpressible is None:
            self.inexpressible = InvalidRequest(
                f"'{place}': {what} can only be used with a model of a provider that speaks "
                "Anthropic's API.",
                param=place,
                code="unsupported_value",
            )


class Conversation:
    """Collects messages. Marks for the cache stay on the parts they stood on."""

    def __init__(self, notes: Notes) -> None:
        self.messages: list[Message] = []
        self._notes = notes

    def add_system(self, system: str | list[Block] | None, place: str = "system") -> None:
        content = system if isinstance(system, str) else self._content(system or (), place)
        if content:
            self.messages.append({"role": "system", "content": content})

    def add_turn(self, turn: Turn, place: str) -> None:
        content = turn.content
        if turn.role == "system":
            self.add_system(content, place)
        elif isinstance(content, str):
            self.messages.append({"role": turn.role, "content": content})
        elif turn.role == "assistant":
            self._add_assistant(content, place)
        else:
            self._add_user(content, place)

    def _add_assistant(self, blocks: list[Block], place: str) -> None:
        """Text, thoughts and tool calls each have a field of their own in a chat message."""
        message: Message = {"role": "assistant"}
        thoughts = [block for block in blocks if block.type == "thinking"]
        calls = [_tool_call(block) for block in blocks if block.type == "tool_use"]
        said = [(at, block) for at, block in enumerate(blocks) if block.type not in _APART]
        content = _collapse([part for at, block in said for part in self._parts(block, place, at)])
        message["content"] = content or (None if calls else "")
        if any(block.thinking for block in thoughts):
            message["reasoning_content"] = "".join(block.thinking or "" for block in thoughts)
        if sealed := [_sealed(block) for block in blocks if _is_sealed(block)]:
            message["thinking_blocks"] = sealed
        if calls:
            message["tool_calls"] = calls
        self.messages.append(message)

    def _add_user(self, blocks: list[Block], place: str) -> None:
        """Tool results are messages of their own, right after the calls they answer (M33)."""
        parts: list[Part] = []
        for at, block in enumerate(blocks):
            if block.type == "tool_result":
                parts += self._add_tool_result(block, f"{place}.content[{at}]")
        for at, block in enumerate(blocks):
            if block.type != "tool_result":
                parts += self._parts(block, place, at)
        if parts or all(block.type != "tool_result" for block in blocks):
            self.messages.append({"role": "user", "content": _collapse(parts)})

    def _add_tool_result(self, block: Block, place: str) -> list[Part]:
        """Adds the tool's message; returns what such a message cannot hold (images, files), with a
        line that says whose it is."""
        content = block.content
        if isinstance(content, str):
            parts = [_text(content)]
        else:
            assert not isinstance(content, dict), "refused when the request was read"
            parts = self._all_parts(content or (), place)
        texts = [part for part in parts if part["type"] == "text"]
        others = [part for part in parts if part["type"] != "text"]
        if block.is_error:
            texts = _as_error(texts)
        if others:
            texts.append(_text("The rest of this result follows in the next user message."))
            others.insert(0, _text(f"The rest of the result of the tool call {block.tool_use_id}:"))
        if block.cache_control and texts:
            texts[-1]["cache_control"] = block.cache_control
        self.messages.append(
            {"role": "tool", "tool_call_id": block.tool_use_id, "content": _collapse(texts)}
        )
        return others

    def _content(self, blocks: Iterable[Block], place: str) -> str | list[Part]:
        return _collapse(self._all_parts(blocks, place))

    def _all_parts(self, blocks: Iterable[Block], place: str) -> list[Part]:
        return [part for at, block in enumerate(blocks) for part in self._parts(block, place, at)]

    def _parts(self, block: Block, place: str, at: int) -> list[Part]:
        """A block as parts of a chat message, of which the last carries its mark for the cache."""
        if block.type == "text":
            parts = [_text(block.text)] if block.text else []
        elif block.type == "image":
            parts = self._image(block.source, f"{place}.content[{at}].source")
        elif block.type == "document":
            parts = self._document(block, f"{place}.content[{at}].source")
        elif block.type == "search_result":
            parts = self._search_result(block, f"{place}.content[{at}]")
        elif block.type == "tool_reference":
            parts = [_text(f"The tool {block.tool_name} is available.")]
        else:
            self._notes.refuse(f"{place}.content[{at}].type", f"a block of the type `{block.type}`")
            parts = []
        if block.cache_control and parts:
            parts[-1]["cache_control"] = block.cache_control
        return parts

    def _image(self, source: Source | str | None, place: str) -> list[Part]:
        assert isinstance(source, Source), "refused when the request was read"
        if source.type == "base64":
            url: str | None = f"data:{source.media_type};base64,{source.data}"
        elif source.type == "url":
            url = source.url
        else:
            self._notes.refuse(place, _SOURCES.get(source.type, f"a source `{source.type}`"))
            return []
        return [{"type": "image_url", "image_url": {"url": url}}]

    def _document(self, block: Block, place: str) -> list[Part]:
        source = block.source
        assert isinstance(source, Source), "refused when the request was read"
        if block.citations:
            self._notes.dropped.add("citations")
        if source.type == "base64":
            data: str | None = f"data:{source.media_type};base64,{source.data}"
            file = {"filename": block.title or "document.pdf", "file_data": data}
            return [*_headed(None, block.context), {"type": "file", "file": file}]
        if source.type == "url":
            file = {"filename": block.title or "document.pdf", "file_data": source.url}
            return [*_headed(None, block.context), {"type": "file", "file": file}]
        if source.type == "text":
            return [*_headed(block.title, block.context), _text(source.data)]
        if source.type == "content":
            inner = source.content or ()
            parts = [_text(inner)] if isinstance(inner, str) else self._all_parts(inner, place)
            return [*_headed(block.title, block.context), *parts]
        self._notes.refuse(place, _SOURCES.get(source.type, f"a source `{source.type}`"))
        return []

    def _search_result(self, block: Block, place: str) -> list[Part]:
        if block.citations:
            self._notes.dropped.add("citations")
        content = block.content
        inner = content if isinstance(content, list) else ()
        source = block.source if isinstance(block.source, str) else None
        return [*_headed(block.title, source), *self._all_parts(inner, place)]


_APART = frozenset({"thinking", "redacted_thinking", "tool_use"})
_SOURCES = {"file": "a file uploaded to Anthropic"}


def _text(text: str | None) -> Part:
    return {"type": "text", "text": text or ""}


def _headed(*lines: str | None) -> list[Part]:
    """What stands above a document, as a part of its own, so that its text stays as it is."""
    head = "\n".join(line for line in lines if line)
    return [_text(head)] if head else []


def _as_error(texts: list[Part]) -> list[Part]:
    """A tool message has no field that says the tool failed: its text has to."""
    if not texts:
        return [_text("Error")]
    first = texts[0]
    return [{**first, "text": f"Error: {first['text']}"}, *texts[1:]]


def _collapse(parts: list[Part]) -> str | list[Part]:
    """A lone plain text as a string, which every server understands."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts


def _tool_call(block: Block) -> dict[str, Any]:
    call: dict[str, Any] = {
        "id": block.id,
        "type": "function",
        "function": {"name": block.name, "arguments": orjson.dumps(block.input).decode()},
    }
    if block.cache_control:
        call["cache_control"] = block.cache_control
    return call


def _is_sealed(block: Block) -> bool:
    """Whether a thought carries what its upstream wants back untouched (M32). Thoughts of upstreams
    that sign none are text and nothing else."""
    return block.type == "redacted_thinking" or (block.type == "thinking" and bool(block.signature))


def _sealed(block: Block) -> dict[str, Any]:
    if block.type == "redacted_thinking":
        return {"type": block.type, "data": block.data}
    return {"type": block.type, "thinking": block.thinking, "signature": block.signature}
