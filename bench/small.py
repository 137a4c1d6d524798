"""A small benchmark of our own, for a checkout that has no other, and for what no other measures:
answers told in another wire's words. Linux only, standard loads.

Starts a fake upstream (which speaks OpenAI, Anthropic and Ollama), a bare pass-through (uvicorn and
aiohttp) and the gateway, each one process on loopback, and writes rows of CPU µs per request and
per chunk of each server's process tree. `ours>anthropic` and `ours>ollama` are the gateway asked in
OpenAI's words for a model of an upstream that speaks the other wire.

    python small.py --workloads ns16,st16p --rounds 3 --seconds 3 --out result.json

This file is also the two servers' module: `small:upstream`, `small:passthrough`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
PORTS = {"direct": 9910, "pypass": 9911, "ours": 9912}
MODELS = {
    "ours": "openai/gpt-4o-mini",
    "ours>anthropic": "claude/claude-sonnet-4-5",
    "ours>ollama": "ollama/llama3.2",
}
ORIGIN = f"http://127.0.0.1:{PORTS['direct']}"
UPSTREAM = f"{ORIGIN}/v1/chat/completions"
KEY = "gw-bench-0123456789abcdef0123456789abcdef"
WORKLOADS = {  # name: (connections, chunks of the stream or 0, ms between chunks)
    "ns16": (16, 0, 0),
    "st16": (16, 100, 0),
    "st16p": (16, 100, 20),
    "st64p": (64, 100, 20),
}
CONFIG = f"""
providers:
  - name: openai
    kind: openai
    base_url: "{ORIGIN}/v1"
    api_key: sk-up
  - {{name: claude, kind: anthropic, base_url: "{ORIGIN}", api_key: sk-up}}
  - {{name: ollama, kind: ollama, base_url: "{ORIGIN}"}}
deployments:
  - {{provider: openai, model: gpt-4o-mini, price: {{input: 0.15, output: 0.60}}}}
keys:
  - {{name: bench, secret: "{KEY}", rpm: 100000000, tpm: 100000000000}}
"""
USAGE = {"prompt_tokens": 24, "completion_tokens": 100, "total_tokens": 124}
HEAD = {"id": "chatcmpl-bench", "created": 1760000000, "model": "gpt-4o-mini"}
ANSWER = json.dumps(
    HEAD
    | {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "words " * 60},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
).encode()


def sse(choices: list[dict[str, Any]], **more: Any) -> bytes:
    chunk = HEAD | {"object": "chat.completion.chunk", "choices": choices} | more
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name} | fields)}\n\n".encode()


def line(content: str, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content}
    told = {"model": "llama3.2", "created_at": "2026-01-01T00:00:00Z", "message": message}
    return json.dumps(told | {"done": False} | more).encode() + b"\n"


class Dialect(NamedTuple):
    """What the fake upstream answers on a wire: whole, or pieces between a start and an end."""

    answer: bytes
    start: bytes
    piece: bytes
    end: bytes
    stream_type: bytes = b"text/event-stream"


MESSAGE: dict[str, Any] = {
    "id": "msg_bench",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 24, "output_tokens": 1},
}
ENDED = {"stop_reason": "end_turn", "stop_sequence": None}
COUNTED = {"done": True, "done_reason": "stop", "prompt_eval_count": 24, "eval_count": 100}
TEXT = {"type": "text", "text": ""}
DIALECTS = {
    "/v1/chat/completions": Dialect(
        ANSWER,
        b"",
        sse([{"index": 0, "delta": {"content": " token"}, "finish_reason": None}]),
        sse([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        + sse([], usage=USAGE)
        + b"data: [DONE]\n\n",
    ),
    "/v1/messages": Dialect(
        json.dumps(MESSAGE | ENDED | {"content": [TEXT | {"text": "words " * 60}]}).encode(),
        event("message_start", message=MESSAGE)
        + event("content_block_start", index=0, content_block=TEXT),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": " token"}),
        event("content_block_stop", index=0)
        + event("message_delta", delta=ENDED, usage={"output_tokens": 100})
        + event("message_stop"),
    ),
    "/api/chat": Dialect(
        line("words " * 60, **COUNTED),
        b"",
        line(" token"),
        line("", **COUNTED),
        b"application/x-ndjson",
    ),
}


# --- the two servers ----------------------------------------------------------------------------
client_of_this_process: list[Any] = []


async def body_of(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def start(send: Any, content_type: bytes, status: int = 200) -> None:
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    """The fake upstream."""
    if scope["type"] != "http":
        return
    body = await body_of(receive)
    request = json.loads(body or b"{}")
    if scope["path"] not in DIALECTS:  # its list of models, which the gateway asks for by itself
        await start(send, b"application/json", 404)
        await send({"type": "http.response.body", "body": b"{}"})
        return
    dialect = DIALECTS[scope["path"]]
    chunks, pause_ms = shape_of(body)
    if not request.get("stream"):
        await start(send, b"application/json")
        await send({"type": "http.response.body", "body": dialect.answer})
        return
    await start(send, dialect.stream_type)
    if dialect.start:
        await send({"type": "http.response.body", "body": dialect.start, "more_body": True})
    for _ in range(chunks):
        await send({"type": "http.response.body", "body": dialect.piece, "more_body": True})
        await asyncio.sleep(pause_ms / 1000)
    await send({"type": "http.response.body", "body": dialect.end})


SHAPE = re.compile(rb"tokens in (\d+) chunks, (\d+) ms apart")


def shape_of(body: bytes) -> tuple[int, int]:
    """The chunks of a stream and the ms between them: told in the prompt, which every wire has."""
    told = SHAPE.search(body)
    return (int(told[1]), int(told[2])) if told else (0, 0)


async def passthrough(scope: Any, receive: Any, send: Any) -> None:
    """The floor: the body goes up, the bytes come down, nothing is looked at."""
    if scope["type"] != "http":
        return
    import aiohttp

    if not client_of_this_process:
        connector = aiohttp.TCPConnector(limit=0)
        session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        client_of_this_process.append(session)
    headers = {"content-type": "application/json", "authorization": "Bearer sk-up"}
    body = await body_of(receive)
    async with client_of_this_process[0].post(UPSTREAM, data=body, headers=headers) as answer:
        await start(send, answer.headers["content-type"].encode(), answer.status)
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


# --- processes ----------------------------------------------------------------------------------
def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """`root` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(stat_of(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue
    found, ahead = [], [root]
    while ahead:
        found.append(pid := ahead.pop())
        ahead += children.get(pid, [])
    return found


def cpu_us(root: int) -> float:
    """User and system time of the tree so far, with that of children it has waited for."""
    ticks = sum(sum(map(int, stat_of(pid)[11:15])) for pid in tree(root))
    return ticks * 1e6 / os.sysconf("SC_CLK_TCK")


def rss_mb(root: int) -> float:
    pages = sum(int(stat_of(pid)[21]) for pid in tree(root))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def asked(system: str, workload: str) -> urllib.request.Request:
    _, chunks, pause_ms = WORKLOADS[workload]
    question = f"Say tokens in {chunks} chunks, {pause_ms} ms apart."
    body = {
        "model": MODELS.get(system, "gpt-4o-mini"),
        "messages": [{"role": "user", "content": question}],
        "stream": bool(chunks),
    }
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{PORTS[system.partition('>')[0]]}/v1/chat/completions"
    return urllib.request.Request(url, json.dumps(body).encode(), headers)


@contextmanager
def server(system: str, command: list[str], env: dict[str, str]) -> Iterator[tuple[int, float]]:
    """A running server: its pid and the seconds to its first answer."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | env, cwd=PROJECT, stdin=subprocess.DEVNULL)
    try:
        while time.perf_counter() - began < 60 and process.poll() is None:
            try:
                urllib.request.urlopen(asked(system, "ns16"), timeout=5).read()
                yield process.pid, time.perf_counter() - began
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"{system} gave no answer within a minute")
    finally:
        process.terminate()
        process.wait(20)


def uvicorn(system: str, application: str) -> list[str]:
    port = str(PORTS[system])
    flags = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    python = [sys.executable, "-m", "uvicorn", application, "--app-dir", str(HERE)]
    return [*python, "--port", port, *flags]


def gateway(data: Path) -> tuple[list[str], dict[str, str]]:
    """The command and environment of our server over a fresh, configured data directory."""
    env = {
        "ABSTRACTCORE_DATA_DIR": str(data),
        "ABSTRACTCORE_AUTH": "required",
        "ABSTRACTCORE_SECRET_KEY": "bench-" * 8,
    }
    (data / "bench.yaml").write_text(CONFIG)
    python = str(PROJECT / ".venv/bin/python")
    for command in (["migrate", "--verbosity", "0"], ["apply_config", str(data / "bench.yaml")]):
        subprocess.run(
            [python, "manage.py", *command], env=os.environ | env, cwd=PROJECT, check=True
        )
    binary = str(PROJECT / ".venv/bin/abstractcore-server")
    return [binary, "--port", str(PORTS["ours"]), "--workers", "1", "--log-level", "warning"], env


# --- load ---------------------------------------------------------------------------------------
async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes) -> int:
    """One request and its whole answer; returns the chunks in it, -1 when it is not a 200."""
    writer.write(raw)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    chunks = 0
    if b"transfer-encoding: chunked" in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunks += (await reader.readexactly(size + 2)).count(b"data: ")
        await reader.readexactly(2)
    else:
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
    return chunks if b" 200 " in head.partition(b"\r\n")[0] else -1


async def client(request: urllib.request.Request, until: float, counts: list[int]) -> None:
    body = request.data
    assert isinstance(body, bytes)
    lines = [f"POST {request.selector} HTTP/1.1", f"host: {request.host}"]
    lines += [f"{name}: {value}" for name, value in request.header_items()]
    raw = "\r\n".join([*lines, f"content-length: {len(body)}"]).encode() + b"\r\n\r\n" + body
    host, _, port = request.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    while time.perf_counter() < until:
        counts.append(await exchange(reader, writer, raw))
    writer.close()


async def measure(system: str, workload: str, *, pid: int, seconds: float) -> dict[str, Any]:
    """One row: what was answered within `seconds` and the CPU it took the server's tree."""
    connections, streamed, pause_ms = WORKLOADS[workload]
    seconds = max(seconds, streamed * pause_ms / 1000 * 2)
    counts: list[int] = []
    before, began = cpu_us(pid), time.perf_counter()
    request = asked(system, workload)
    await asyncio.gather(*(client(request, began + seconds, counts) for _ in range(connections)))
    spent, took = cpu_us(pid) - before, time.perf_counter() - began
    good = [count for count in counts if count >= 0]
    return {
        "system": system,
        "workload": workload,
        "ok": len(good),
        "bad": len(counts) - len(good),
        "rps": round(len(good) / took, 1),
        "cpu_us_req": round(spent / max(len(good), 1), 1),
        "cpu_us_chunk": round(spent / max(sum(good), 1), 2) if streamed else None,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--workloads", default="ns16,st16,st16p,st64p")
    options.add_argument("--systems", default="direct,pypass,ours,ours>anthropic,ours>ollama")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=3)
    options.add_argument("--out", default="result.json")
    args = options.parse_args()
    result: dict[str, Any] = {"servers": {}, "rows": []}
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command, env = gateway(data)
        commands = {
            "direct": (uvicorn("direct", "small:upstream"), {}),
            "pypass": (uvicorn("pypass", "small:passthrough"), {}),
            "ours": (command, env),
        }
        pids = {}
        for system, (argv, extra) in commands.items():
            pids[system], start_s = stack.enter_context(server(system, argv, extra))
            result["servers"][system] = {"start_s": [start_s], "rss_start": rss_mb(pids[system])}
        measured = {name: pids[name.partition(">")[0]] for name in args.systems.split(",")}
        for at in range(-1, args.rounds):  # the round before the first only warms
            for workload in args.workloads.split(","):
                for system, pid in measured.items():
                    seconds = args.seconds if at >= 0 else 1
                    row = asyncio.run(measure(system, workload, pid=pid, seconds=seconds))
                    if at >= 0:
                        result["rows"].append(row | {"round": at})
                        print(at, *(f"{name}={value}" for name, value in row.items()), flush=True)
        for system, pid in pids.items():
            result["servers"][system]["rss_load"] = rss_mb(pid)
    Path(args.out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
