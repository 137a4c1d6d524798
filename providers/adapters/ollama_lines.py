"""What a line of Ollama's answers is, and what it means in OpenAI's words.

Shapes follow Ollama's `docs/api.md` and recorded traffic: a line may hold text, thinking or whole
tool calls; the one with `done: true` ends the answer and counts tokens, without `prompt_eval_count`
where the prompt was cached, and may hold the last text too.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from chat.errors import UpstreamFailed
from chat.requests import ChatRequest
from chat.types import MAX_COUNT, FinishReason, Usage

BYTES_PER_TOKEN = 4
"""For counts a server leaves out."""


class CalledFunction(msgspec.Struct, gc=False):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class Call(msgspec.Struct, gc=False):
    function: CalledFunction
    id: str | None = None
    """Servers since 0.12 give one."""


class Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Call] | None = None


class Token(msgspec.Struct, gc=False):
    token: str = ""
    logprob: float = 0.0
    bytes: list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None = None
    top_logprobs: list[Token] | None = None


class Line(msgspec.Struct, gc=False):
    """A line of `/api/chat`; or of `/api/generate`, which has `response` for a message."""

    model: str = ""
    message: Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    logprobs: list[Token] | None = None
    error: Any = None


decode = msgspec.json.Decoder(Line).decode
decode_lines = msgspec.json.Decoder(Line).decode_lines


def arguments_of(raw: msgspec.Raw) -> str:
    """A call's arguments as OpenAI's JSON string. Raises ValueError for what is no object."""
    text = bytes(raw).strip()
    if text.startswith(b'"'):  # some servers with this API keep OpenAI's form
        text = msgspec.json.decode(text, type=str).encode().strip() or b"{}"
        msgspec.json.decode(text, type=dict[str, Any])
    if text == b"null":
        text = b"{}"
    if not text.startswith(b"{"):
        raise ValueError("arguments are no object")
    return text.decode()


def finish_reason(done_reason: str | None, *, called: bool) -> FinishReason:
    """OpenAI's word for the end `done: true` tells of; a call makes it `tool_calls` (M29)."""
    if done_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def read_usage(line: Line, request: ChatRequest, *, text_bytes: int) -> Usage:
    """The counts of the last line; a missing one is estimated, and the whole marked so."""
    prompt, output = credible_count(line.prompt_eval_count), credible_count(line.eval_count)
    usage = Usage(
        prompt_tokens=max(1, request.size // BYTES_PER_TOKEN) if prompt is None else prompt,
        completion_tokens=-(-text_bytes // BYTES_PER_TOKEN) if output is None else output,
    )
    usage.total_tokens = usage.prompt_tokens + (usage.completion_tokens or 0)
    if prompt is None or output is None:
        usage.estimated = True
    return usage


def credible_count(count: int | None) -> int | None:
    """A count that can be one, else None."""
    return count if count is not None and abs(count) <= MAX_COUNT else None


def read_logprobs(tokens: list[Token]) -> dict[str, Any]:
    """Ollama's list of tokens as OpenAI's `logprobs` object."""
    return {
        "content": [
            {**_told(token), "top_logprobs": [_told(each) for each in token.top_logprobs or ()]}
            for token in tokens
        ],
        "refusal": None,
    }


def _told(token: Token) -> dict[str, Any]:
    known = token.bytes
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": known if known is not None else list(token.token.encode()),
    }


def call_id(call: Call, id_: str, index: int) -> str:
    """The upstream's own id, else one of ours, made of the answer's."""
    return call.id or f"call_{id_[:20]}{index:04d}"


def odd_arguments() -> UpstreamFailed:
    """A call that would mean nothing to a caller."""
    return UpstreamFailed("The provider sent a tool call whose arguments are no JSON object.")
