"""Mixed requests: on every wire, streamed and not, answered, failed, retried, cut and left, alone
and as turns of sessions; and the upstream that plays the other side of them.

What a request wants of its upstream stands in its text, `mark:<mode>-<number>`, which every wire
carries; its request id is the same without `mark:`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests import anthropic_upstream as anthropic
from tests.chaos.asking import Caller
from tests.gateway import KEY, Gateway, configuration
from tests.scripted_model import call
from tests.upstream import (
    DONE,
    NDJSON,
    Asked,
    Peer,
    chat_line,
    chunk,
    completion,
    event,
    last_line,
)

ADMIN = "gw-test-admin-0123456789abcdef0123456789ab"
OTHER = "gw-test-other-0123456789abcdef0123456789ab"
SESSIONS = 12
_CHATS = ("whole", "stream", "fails", "retried", "rejected", "cut", "slow", "silent", "cached")
KINDS = (
    *(("chat", mode) for mode in (*_CHATS, "unpriced", "falls", "tools", "toolstream", "late")),
    *(("messages", mode) for mode in ("whole", "stream", "fails", "slow", "translated")),
    *(("ollama", mode) for mode in ("whole", "stream", "cut", "translated")),
    *(("responses", mode) for mode in ("whole", "stream", "fails", "cached")),
    *(("embeddings", mode) for mode in ("whole", "retried", "unpriced")),
    ("completions", "whole"),
    *(("session", mode) for mode in ("whole", "stream", "fails", "cut", "slow", "retried")),
    *(("session", mode) for mode in ("tools", "toolstream", "unpriced", "switched", "compact")),
    ("session", "late"),
)
"""What is asked, one after the other."""
STREAMED = frozenset({"stream", "cut", "slow", "toolstream"})
_MARK = re.compile(rb"mark:([a-z]+-[0-9]+)")
_SUMMARY = b"Sum up the conversation so far"
MINI, CLAUDE, QWEN = "scripted/gpt-4o-mini", "claude/claude-sonnet-4-5", "llama/qwen3:latest"


def configured(base_url: str) -> dict[str, Any]:
    found = configuration(base_url, max_retries=1)
    origin = base_url.removesuffix("/v1")
    scripted = found["providers"][0]
    found["providers"] += [
        {**scripted, "name": "broken", "api_key": "sk-broken"},
        {**scripted, "name": "claude", "kind": "anthropic", "base_url": origin},
        {**scripted, "name": "llama", "kind": "ollama", "base_url": origin},
    ]
    priced = {"price": {"input": 0.15, "output": 0.60, "cached_input": 0.075}}
    found["deployments"] = [
        {"provider": "scripted", "model": "gpt-4o-mini", **priced},
        {"provider": "scripted", "model": "embedder", "price": {"input": 0.02, "output": 0}},
    ]
    targets = [{"provider": each, "model": "gpt-4o-mini"} for each in ("broken", "scripted")]
    found["routes"].append({"name": "falls", "strategy": "fallback", "targets": targets})
    clock = {"name": "clock", "kind": "http", "url": f"{origin}/clock"}
    found["tools"] = [{**clock, "parameters": {"type": "object"}}]
    found["keys"] += [
        {"name": "boss", "secret": ADMIN, "admin": True},
        {"name": "other", "secret": OTHER},
    ]
    return found


# --- the upstream -------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """What an upstream says it has used; `cached` and `cache_write` are part of `input`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def __add__(self, other: object) -> Tokens:
        assert isinstance(other, Tokens)
        return Tokens(*map(sum, zip(self, other, strict=True)))


@dataclass(frozen=True)
class Dialect:
    """How one upstream API says the same: a whole answer, a stream's beginning, piece and end."""

    whole: Callable[[Tokens], Any]
    first: Callable[[Tokens], bytes] = lambda used: chunk(role="assistant", content="")
    piece: Callable[[], bytes] = lambda: chunk(content="word ")
    last: Callable[[Tokens], bytes] = lambda used: chunk("stop") + _usage_chunk(used) + DONE
    content_type: str = "text/event-stream"


def _openai_usage(used: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": used.input,
        "completion_tokens": used.output,
        "total_tokens": used.input + used.output,
        "prompt_tokens_details": {"cached_tokens": used.cached},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning},
    }


def _usage_chunk(used: Tokens) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event({**head, "choices": [], "usage": _openai_usage(used)})


def _anthropic_usage(used: Tokens) -> dict[str, int]:
    return {
        "input_tokens": used.input - used.cached - used.cache_write,
        "cache_read_input_tokens": used.cached,
        "cache_creation_input_tokens": used.cache_write,
        "output_tokens": used.output,
    }


def _anthropic_last(used: Tokens) -> bytes:
    told = {"stop_reason": "end_turn", "stop_sequence": None}
    ended = anthropic.event("content_block_stop", index=0)
    ended += anthropic.event("message_delta", delta=told, usage=_anthropic_usage(used))
    return ended + anthropic.event("message_stop")


def _anthropic_first(used: Tokens) -> bytes:
    usage = {**_anthropic_usage(used), "output_tokens": 1}
    message = anthropic.message(stop=None, usage=usage)
    block = {"type": "text", "text": ""}
    return anthropic.event("message_start", message=message) + anthropic.event(
        "content_block_start", index=0, content_block=block
    )


def _anthropic_piece() -> bytes:
    delta = {"type": "text_delta", "text": "word "}
    return anthropic.event("content_block_delta", index=0, delta=delta)


_TEXT = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
DIALECTS = {
    "/v1/chat/completions": Dialect(lambda used: {**completion(), "usage": _openai_usage(used)}),
    "/v1/messages": Dialect(
        lambda used: anthropic.message(anthropic.text("Hello."), usage=_anthropic_usage(used)),
        _anthropic_first,
        _anthropic_piece,
        _anthropic_last,
    ),
    "/api/chat": Dialect(
        lambda used: json.loads(
            last_line(content="Hello.", prompt_eval_count=used.input, eval_count=used.output)
        ),
        lambda used: chat_line(),
        lambda: chat_line(content="word "),
        lambda used: last_line(prompt_eval_count=used.input, eval_count=used.output),
        NDJSON,
    ),
    "/v1/embeddings": Dialect(
        lambda used: {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
            "model": "m",
            "usage": {"prompt_tokens": used.input, "total_tokens": used.input},
        }
    ),
    "/v1/completions": Dialect(
        lambda used: {
            **_TEXT,
            "choices": [{"index": 0, "text": "Hello.", "finish_reason": "stop", "logprobs": None}],
            "usage": _openai_usage(used),
        }
    ),
}


class Moody:
    """An upstream that does what a request's mark says, and keeps an account of it."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """How often, by mark."""
        self.told: dict[str, Tokens] = {}
        """What it said it has used, by mark; summaries are under ""."""

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        if asked.path == "/clock":
            peer.answer(200, b'{"time":"noon"}')
            return
        mark = "" if _SUMMARY in asked.body else _MARK.findall(asked.body)[-1].decode()
        self.asked[mark] += 1
        mode = mark.partition("-")[0]
        refusal = self._refusal(mode, mark, asked)
        if refusal is not None:
            peer.answer(refusal, b'{"error":{"message":"no"}}', retry_after="0")
            return
        body = asked.json()
        dialect = DIALECTS[asked.path]
        if mode.startswith("tool") and body["messages"][-1]["role"] == "user":
            self._call_tool(mark, body, peer)
        elif body.get("stream"):
            await self._stream(mode, mark, dialect, peer)
        else:
            if mode == "late":  # so that a kill finds some that wait
                await asyncio.sleep(0.5)
            whole = dialect.whole(used := self._uses(mark, asked.path))
            if mode == "silent":
                del whole["usage"]
            else:
                self._tell(mark, used)
            peer.answer(200, json.dumps(whole).encode())

    def _refusal(self, mode: str, mark: str, asked: Asked) -> int | None:
        if "sk-broken" in asked.headers.get("authorization", "") or mode == "fails":
            return 503
        if mode == "retried" and self.asked[mark] == 1:
            return 503
        return 400 if mode == "rejected" else None

    def _uses(self, mark: str, path: str) -> Tokens:
        """Tokens of the next answer: other ones each time."""
        number = self.asked.total()
        used = Tokens(40 + number % 13, 3 + number % 7)
        if mark.startswith("cached") and path == "/v1/chat/completions":
            used = used._replace(cached=number % 31, reasoning=number % 3)
        if path == "/v1/messages":
            used = used._replace(cached=number % 11, cache_write=number % 5)
        if path == "/v1/embeddings":
            used = used._replace(output=0)
        return used

    def _tell(self, mark: str, used: Tokens) -> None:
        self.told[mark] = self.told.get(mark, Tokens()) + used

    def _call_tool(self, mark: str, body: dict[str, Any], peer: Peer) -> None:
        self._tell(mark, used := self._uses(mark, ""))
        called = {"tool_calls": [{**call("Paris", name="clock"), "index": 0}]}
        if not body.get("stream"):
            whole = {**completion(None, **called), "usage": _openai_usage(used)}
            peer.answer(200, json.dumps(whole).encode())
            return
        peer.begin()
        peer.piece(chunk(None, **called) + chunk("tool_calls") + _usage_chunk(used) + DONE)
        peer.end()

    async def _stream(self, mode: str, mark: str, dialect: Dialect, peer: Peer) -> None:
        peer.begin(content_type=dialect.content_type)
        path = next(path for path, each in DIALECTS.items() if each is dialect)
        used = self._uses(mark, path)
        peer.piece(dialect.first(used))
        for _ in range(40 if mode == "slow" else 1):
            peer.piece(dialect.piece())
            await asyncio.sleep(0.05 if mode == "slow" else 0)
        if mode == "cut":
            peer.hang_up()
            return
        self._tell(mark, used)
        peer.piece(dialect.last(used))
        peer.end()


# --- the callers --------------------------------------------------------------------------------


def begin_sessions(gateway: Gateway) -> list[str]:
    body = {"model": MINI, "system_prompt": "Be brief."}
    made = [gateway.post("/v1/sessions", body) for _ in range(SESSIONS)]
    return [str(each.json()["id"]) for each in made]


async def send_mixed(
    gateway: Gateway,
    number: int,
    sessions: Sequence[str],
    *,
    at_once: int = 16,
    meanwhile: dict[int, Callable[[], None]] | None = None,
) -> None:
    """So many requests of all KINDS. What is to be done `meanwhile` is, by itself, when so many
    have begun."""
    gate = asyncio.Semaphore(at_once)
    doing: list[asyncio.Task[None]] = []

    async def one(at: int) -> None:
        async with gate:
            if meanwhile and at in meanwhile:
                doing.append(asyncio.create_task(asyncio.to_thread(meanwhile[at])))
            await send(gateway, at, sessions)

    await asyncio.gather(*(one(at) for at in range(number)))
    await asyncio.gather(*doing)


async def send(gateway: Gateway, at: int, sessions: Sequence[str]) -> None:
    """The `at`th request; the caller of a slow one leaves in the middle."""
    wire, mode = KINDS[at % len(KINDS)]
    mark = f"{mode}-{at}"
    path, body = asks(wire, mode, mark, sessions[at % len(sessions)])
    key = OTHER if wire != "session" and at % 3 == 0 else KEY
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        caller = Caller(reader, writer)
        writer.write(_post(path, body, mark, key))
        try:
            if mode == "slow":
                await asyncio.wait_for(caller.read_until(b"word"), 60)
            else:
                await asyncio.wait_for(caller.read_all(), 60)
        finally:
            await caller.leave()


def asks(wire: str, mode: str, mark: str, session: str) -> tuple[str, dict[str, Any]]:
    """Where and what a request of some wire asks."""
    said = {"messages": [{"role": "user", "content": f"mark:{mark}"}], "stream": mode in STREAMED}
    models = {"unpriced": "scripted/gpt-4o", "falls": "falls", "switched": CLAUDE}
    model = {"model": models.get(mode, MINI)}
    tools = {"tools": ["clock"], "tool_execution": "server"} if mode.startswith("tool") else {}
    match wire:
        case "messages":
            model = {"model": MINI if mode == "translated" else CLAUDE}
            return "/v1/messages", {**said, **model, "max_tokens": 100}
        case "ollama":
            return "/api/chat", {**said, "model": MINI if mode == "translated" else QWEN}
        case "responses":
            asked = {**model, "input": f"mark:{mark}", "stream": said["stream"], "store": False}
            return "/v1/responses", asked
        case "embeddings":
            model = {} if mode == "unpriced" else {"model": "scripted/embedder"}
            return "/v1/embeddings", {"model": "scripted/other", **model, "input": f"mark:{mark}"}
        case "completions":
            return "/v1/completions", {**model, "prompt": f"mark:{mark}"}
        case "session" if mode == "compact":
            return f"/v1/sessions/{session}/compact", {}
        case "session":
            own = model if mode in models else {}
            return f"/v1/sessions/{session}/chat", {**said, **own, **tools}
    return "/v1/chat/completions", {**said, **model, **tools}


def _post(path: str, body: dict[str, Any], request_id: str, key: str) -> bytes:
    raw = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {key}",
        f"x-request-id: {request_id}",
        "content-type: application/json",
        f"content-length: {len(raw)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + raw
