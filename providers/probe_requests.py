"""What a probe asks, and how it reads the answers: small requests in the OpenAI shape."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from functools import cache
from typing import Any, Literal

import msgspec
import orjson

from chat.types import Reply

Fields = dict[str, Any]
"""Of a chat completion request, but for its model and its limit."""

TOOL = "get_weather"
COLOURS = ("yellow", "black")
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Tells the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


class Schema(msgspec.Struct, forbid_unknown_fields=True):
    """What `schema_request` asks for. The prompt says nothing of it, so that only a server that
    holds its model to the schema answers so."""

    colour: Literal["red", "green", "blue"]
    count: int


def plain_request() -> Fields:
    return _saying("Say hello.")


def system_request() -> Fields:
    system = {"role": "system", "content": "Answer in one word."}
    return {"messages": [system, *_saying("Say hello.")["messages"]]}


def tool_request(prompt: str = "What is the weather in Paris? Use the tool.") -> Fields:
    return {**_saying(prompt), "tools": _TOOLS}


def parallel_request() -> Fields:
    return tool_request("What is the weather in Paris, and in Rome? Use the tool for both at once.")


def schema_request() -> Fields:
    schema = {
        "type": "object",
        "properties": {
            "colour": {"type": "string", "enum": ["red", "green", "blue"]},
            "count": {"type": "integer"},
        },
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    named = {"name": "reply", "strict": True, "schema": schema}
    return {
        **_saying("Say something about the sea."),
        "response_format": {"type": "json_schema", "json_schema": named},
    }


def json_request() -> Fields:
    """Asks for more than an object, which a server that enforces JSON does not let through."""
    prompt = (
        "Give a JSON object with the key sea. After it, in plain English and outside of the JSON, "
        "say what the object means."
    )
    return {**_saying(prompt), "response_format": {"type": "json_object"}}


def vision_request() -> Fields:
    parts = [
        {"type": "text", "text": "Which two colours does this picture show? Answer in two words."},
        {"type": "image_url", "image_url": {"url": _picture(), "detail": "low"}},
    ]
    return {"messages": [{"role": "user", "content": parts}]}


def _saying(prompt: str) -> Fields:
    return {"messages": [{"role": "user", "content": prompt}]}


@cache
def _picture(side: int = 64) -> str:
    """A PNG, left half yellow, right half black: some 100 bytes, and large enough for models that
    refuse pictures of less than 28 pixels (Qwen2-VL)."""
    half = side // 2
    row = b"\0" + b"\xff\xff\0" * half + b"\0\0\0" * half
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(row * side, 9)),
            _chunk(b"IEND", b""),
        )
    )
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


class Answer:
    """What a probe reads of a whole answer."""

    def __init__(self, reply: Reply) -> None:
        try:
            message = orjson.loads(reply.body)["choices"][0]["message"]
        except (ValueError, LookupError, TypeError):
            message = {}
        self._message: dict[str, Any] = message if isinstance(message, dict) else {}
        content = self._message.get("content")
        self.text = content.strip() if isinstance(content, str) else ""
        self.cut_off = reply.finish_reason == "length"

    def calls(self) -> list[str]:
        """The arguments of the calls that name the tool and give it a city."""
        found = []
        for call in self._message.get("tool_calls") or ():
            try:
                function = call["function"]
                city = orjson.loads(function["arguments"])["city"]
            except (ValueError, LookupError, TypeError):
                continue
            if function.get("name") == TOOL and isinstance(city, str):
                found.append(str(function["arguments"]))
        return found


def vector_length(reply: Reply) -> int | None:
    """How many numbers the vector of an embeddings answer has; None where there is none."""
    try:
        vector = orjson.loads(reply.body)["data"][0]["embedding"]
    except (ValueError, LookupError, TypeError):
        return None
    return len(vector) if isinstance(vector, list) and vector else None
