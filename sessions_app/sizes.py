"""How many tokens a message may have, where nobody who knows was asked: for trimming, not for
bills. Four bytes of text a token; a fixed number for what is seen or heard."""

from __future__ import annotations

from typing import Any

import orjson

BYTES_PER_TOKEN = 4
MEDIA_TOKENS = 1_600
"""An image, a sound or a short document: their tokens go by pixels, seconds and pages."""
BYTES_PER_TOKEN_OF_A_FILE = 40
"""Of a file in base64: a page of a PDF with text is 50-100 kB and some 2,000 tokens."""
FRAME_TOKENS = 4
_MEDIA = frozenset({"image_url", "input_audio", "file"})
_WORDS = ("tool_calls", "function_call", "refusal", "reasoning_content", "reasoning")


def tokens_of(message: dict[str, Any]) -> int:
    """Of one message in the OpenAI shape."""
    content = message.get("content") or ""
    parts = content if isinstance(content, list) else [content]
    said = sum(map(_part, parts))
    return FRAME_TOKENS + said + sum(words(message[name]) for name in _WORDS if message.get(name))


def _part(part: Any) -> int:
    if isinstance(part, dict) and part.get("type") in _MEDIA:
        data = (part.get("file") or {}).get("file_data") or ""
        return max(MEDIA_TOKENS, len(data) // BYTES_PER_TOKEN_OF_A_FILE)
    return words(part.get("text", part) if isinstance(part, dict) else part)


def words(value: Any) -> int:
    """Of a text, or of anything as JSON."""
    text = value.encode() if isinstance(value, str) else orjson.dumps(value)
    return -(-len(text) // BYTES_PER_TOKEN)
