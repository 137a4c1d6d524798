"""How many tokens a prompt has, where nobody who knows can be asked.

Four bytes of UTF-8 a token for all that is text: messages, tool calls, tool definitions; a fixed
number for an image, whose tokens go by its size in pixels; a token for 32 bytes of a document
(a page of a PDF with text is 50-100 kB and some 2,000 tokens); four for each message's frame.
"""

from __future__ import annotations

from typing import Any

import orjson

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1_600
DOCUMENT_BYTES_PER_TOKEN = 32
FRAME_TOKENS = 4


def estimate_tokens(body: dict[str, Any]) -> int:
    """Tokens of the prompt of a request in the OpenAI shape. Never 0."""
    tokens = sum(_message(message) for message in body["messages"])
    for name in ("tools", "response_format"):
        if name in body:
            tokens += len(orjson.dumps(body[name])) // BYTES_PER_TOKEN
    return max(1, tokens)


def _message(message: dict[str, Any]) -> int:
    content = message.get("content") or ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    tokens = FRAME_TOKENS + sum(map(_part, parts))
    for call in message.get("tool_calls") or ():
        tokens += FRAME_TOKENS + _text(call["function"]["name"] + call["function"]["arguments"])
    return tokens + _text(message.get("reasoning_content") or "")


def _part(part: dict[str, Any]) -> int:
    if part["type"] == "image_url":
        return IMAGE_TOKENS
    if part["type"] == "file":
        data = part["file"].get("file_data") or ""
        return max(IMAGE_TOKENS, len(data) * 3 // 4 // DOCUMENT_BYTES_PER_TOKEN)
    return _text(part["text"])


def _text(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
