"""A scripted upstream on a real socket, in a thread of its own.

It plays what a test's script says, whatever that breaks, and keeps what it was asked and who left.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

MODELS = ("gpt-4o-mini", "gpt-4o")
OLLAMA_MODELS = ("qwen3:latest", "llama3.2:1b")
MODIFIED_AT = "2025-05-17T15:10:26.937464025Z"
DONE = b"data: [DONE]\n\n"


@dataclass(eq=False)
class Asked:
    """One request as it came. `left_at` is when its caller went before the script had ended."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    left_at: float | None = None

    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """Who asked: what a script writes goes there."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, raw: bytes) -> None:
        self._transport.write(raw)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """A whole answer; underscores in header names stand for hyphens."""
        headers = {"content_type": "application/json", **headers, "content_length": str(len(body))}
        self.write(head(status, headers) + body)

    def begin(self, **headers: str) -> None:
        """The head of a stream; `piece` and `end` follow."""
        self.write(
            head(
                200,
                {"content_type": "text/event-stream", **headers, "transfer_encoding": "chunked"},
            )
        )

    def piece(self, data: bytes) -> None:
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        self._transport.abort()


def head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


Script = Callable[[Asked, Peer], Awaitable[None]]


class Upstream:
    """What a server process sees of the other side. `asked` holds all but listings of models."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.listing: Script = list_models
        """Plays what is asked with GET."""
        self.early: Script | None = None
        """Answers a request whose body is still coming, once its head is here."""
        self.asked: list[Asked] = []
        self.listings = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def left(self) -> list[Asked]:
        """The requests whose caller did not wait for the end."""
        return [asked for asked in list(self.asked) if asked.left_at is not None]

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10), "the scripted upstream did not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), sock=listener, backlog=1024)
        )
        self.port = listener.getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(_end_tasks())
        self._loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)


def body_of(headers: dict[str, str], rest: bytes) -> tuple[bytes | None, bytes]:
    """A request's body and what follows it; None while it is not whole."""
    if headers.get("transfer-encoding") != "chunked":
        size = int(headers.get("content-length", "0"))
        return (rest[:size], rest[size:]) if len(rest) >= size else (None, rest)
    body, left = b"", rest
    while True:
        line, mark, left = left.partition(b"\r\n")
        size = int(line, 16) if mark else 0
        if not mark or len(left) < size + 2:
            return None, rest
        body, left = body + left[:size], left[size + 2 :]
        if not size:
            return body, left


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._asked: Asked | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_deaf = False
        """To the rest of a request that was answered early."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # asyncio's own choice, which it does not make for the sockets of `socket.create_server`: a
        # stream's second piece would wait 40 ms for the first one's acknowledgement.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if not self._is_deaf:
            self._buffer += data
            self._read_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None and self._asked is not None:
            self._asked.left_at = time.monotonic()
            self._task.cancel()

    def _read_request(self) -> None:
        start, mark, rest = self._buffer.partition(b"\r\n\r\n")
        if self._task is not None or not mark:
            return
        first, *lines = start.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body, left = body_of(headers, rest)
        early = self._upstream.early
        if body is None and early is not None:
            body, left, self._upstream.script = rest, b"", early
            self._is_deaf = True
        if body is None:
            return
        self._buffer = left
        method, path, _ = first.split(" ")
        self._begin(Asked(method, path, headers, body, time.monotonic()))

    def _begin(self, asked: Asked) -> None:
        self._asked = asked
        script = self._upstream.script
        if asked.method == "GET" and not asked.path.startswith(("/v1/files", "/v1/batches")):
            self._upstream.listings += 1
            script = self._upstream.listing
        elif asked.path == "/api/show":
            script = show_model
        else:
            self._upstream.asked.append(asked)
        self._task = asyncio.get_running_loop().create_task(self._play(script, asked))

    async def _play(self, script: Script, asked: Asked) -> None:
        await script(asked, Peer(self._transport))
        self._task = None
        self._read_request()


async def list_models(asked: Asked, peer: Peer) -> None:
    if asked.path.startswith("/api/"):
        await (list_tags if asked.path == "/api/tags" else list_running)(asked, peer)
        return
    listed = [{"id": name, "object": "model", "created": 1, "owned_by": "us"} for name in MODELS]
    peer.answer(200, json.dumps({"object": "list", "data": listed}).encode())


async def list_tags(asked: Asked, peer: Peer) -> None:
    listed = [{"name": name, "model": name, "modified_at": MODIFIED_AT} for name in OLLAMA_MODELS]
    peer.answer(200, json.dumps({"models": listed}).encode())


async def list_running(asked: Asked, peer: Peer) -> None:
    running = {"size": 5, "size_vram": 4, "expires_at": MODIFIED_AT, "context_length": 4096}
    named = {"name": OLLAMA_MODELS[0], "model": OLLAMA_MODELS[0]}
    peer.answer(200, json.dumps({"models": [{**named, **running}]}).encode())


async def show_model(asked: Asked, peer: Peer) -> None:
    shown = {
        "details": {"family": "qwen3"},
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
        "capabilities": ["completion", "tools", "thinking"],
    }
    peer.answer(200, json.dumps(shown).encode())


@contextmanager
def scripted_upstream(script: Script) -> Iterator[Upstream]:
    upstream = Upstream(script)
    upstream.start()
    try:
        yield upstream
    finally:
        upstream.stop()


# --- scripts and what they say ------------------------------------------------------------------


def whole(status: int, body: Any, **headers: str) -> Script:
    """A script that gives this answer, JSON values or bytes, every time."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(asked: Asked, peer: Peer) -> None:
        peer.answer(status, raw, **headers)

    return script


def streaming(pieces: Sequence[bytes], *, pause_s: float = 0.0, **headers: str) -> Script:
    """A script that streams these pieces as they are, with a pause before each but the first."""

    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin(**headers)
        for position, piece in enumerate(pieces):
            if position:
                await asyncio.sleep(pause_s)
            peer.piece(piece)
        peer.end()

    return script


async def silence(asked: Asked, peer: Peer) -> None:
    """Never answers."""
    await asyncio.Event().wait()


def completion(content: str | None = "Hello there.", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None, **message},
                "logprobs": None,
                "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }


def chunk(finish_reason: str | None = None, **delta: Any) -> bytes:
    """One chunk as an event."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return event({**_HEAD, "choices": [choice]})


def usage_chunk(prompt: int, output: int) -> bytes:
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    return event({**_HEAD, "choices": [], "usage": counts})


_HEAD = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "gpt-4o-mini-2024-07-18",
}


def event(value: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


def chunks(*words: str) -> list[bytes]:
    """A whole stream that says these words, with its usage."""
    return [
        chunk(role="assistant", content=""),
        *(chunk(content=word) for word in words),
        chunk("stop"),
        usage_chunk(9, len(words)),
        DONE,
    ]


# --- Ollama's lines -----------------------------------------------------------------------------


def line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def chat_line(**fields: Any) -> bytes:
    """A line of `/api/chat`; `done` and the counts beside the message are by keyword."""
    message = {"role": "assistant", "content": ""}
    message |= {name: fields.pop(name) for name in _OF_MESSAGE if name in fields}
    return line({**_LINE, "message": message, "done": False, **fields})


def last_line(done_reason: str = "stop", **fields: Any) -> bytes:
    counts = {"total_duration": 5, "prompt_eval_count": 9, "eval_count": 3}
    return chat_line(done=True, done_reason=done_reason, **{**counts, **fields})


_OF_MESSAGE = ("content", "thinking", "tool_calls")
_LINE = {"model": "qwen3:latest", "created_at": "2025-06-05T00:31:45.978554703Z"}
NDJSON = "application/x-ndjson"
