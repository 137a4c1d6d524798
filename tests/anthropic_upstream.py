"""What a scripted Anthropic upstream says: messages, events, whole streams."""

from __future__ import annotations

import json
from typing import Any

USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 20,
    "cache_read_input_tokens": 30,
    "output_tokens": 1,
}
SIGNED = {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBsig+/=="}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def tool_use(called: str, name: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": called, "name": name, "input": given}


def message(*content: dict[str, Any], stop: str | None = "end_turn", **fields: Any) -> Any:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {**USAGE, "output_tokens": 7},
        **fields,
    }


def error(kind: str, told: str = "told") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": told}, "request_id": "req_1"}


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def start() -> bytes:
    head = {**message(stop=None), "usage": USAGE}
    return event("message_start", message=head)


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    """A content block: its start, its deltas, its stop."""
    return [
        event("content_block_start", index=index, content_block=content),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def text_block(index: int, *words: str) -> list[bytes]:
    return block(index, text(""), *({"type": "text_delta", "text": each} for each in words))


def tool_block(index: int, called: str, name: str, *fragments: str) -> list[bytes]:
    deltas = [{"type": "input_json_delta", "partial_json": each} for each in ("", *fragments)]
    return block(index, tool_use(called, name), *deltas)


def thinking_block(index: int, *thoughts: str, signature: str) -> list[bytes]:
    deltas: list[dict[str, Any]] = [
        {"type": "thinking_delta", "thinking": each} for each in thoughts
    ]
    deltas.append({"type": "signature_delta", "signature": signature})
    return block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas)


def ending(stop: str = "end_turn", **delta: Any) -> list[bytes]:
    usage = {**USAGE, "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 3}}
    told = {"stop_reason": stop, "stop_sequence": None, **delta}
    return [event("message_delta", delta=told, usage=usage), event("message_stop")]


def stream(*blocks: list[bytes], stop: str = "end_turn") -> list[bytes]:
    """A whole stream, with a ping as the real one sends."""
    ping = event("ping")
    return [start(), ping, *(each for part in blocks for each in part), *ending(stop)]
