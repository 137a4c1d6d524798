"""Callers of the Ollama wire who leave, on both kinds of upstream: it is let go, the ledger knows
(M24)."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest

from tests.chaos.asking import Caller
from tests.gateway import KEY, Gateway, wait_until
from tests.upstream import NDJSON, Asked, Peer, Script, Upstream, chat_line, chunk, silence

MODELS = ["scripted/gpt-4o-mini", "llama/qwen3:latest"]


async def talking(asked: Asked, peer: Peer) -> None:
    """A stream that does not come to an end."""
    native = asked.path == "/api/chat"
    peer.begin(content_type=NDJSON if native else "text/event-stream")
    for _ in range(10_000):
        peer.piece(chat_line(content="hello ") if native else chunk(content="hello "))
        await asyncio.sleep(0.02)


async def ask(gateway: Gateway, model: str, request_id: str, *, stream: bool) -> Caller:
    fields = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    body = json.dumps(fields).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    lines = [
        "POST /api/chat HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {KEY}",
        f"x-request-id: {request_id}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    return Caller(reader, writer)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("script", "stream", "mark"),
    [(talking, True, b"hello "), (silence, True, b""), (silence, False, b"")],
    ids=["in the middle", "before the first line", "before a whole answer"],
)
async def test_the_upstream_is_let_go_within_a_second(
    mixed_gateway: Gateway,
    upstream: Upstream,
    model: str,
    script: Script,
    stream: bool,
    mark: bytes,
) -> None:
    upstream.script = script
    request_id = uuid.uuid4().hex
    caller = await ask(mixed_gateway, model, request_id, stream=stream)
    await asyncio.to_thread(wait_until, lambda: upstream.asked != [], seconds=5)
    if mark:
        await caller.read_until(mark)
    await caller.leave()
    await asyncio.to_thread(wait_until, lambda: upstream.left != [], seconds=1)
    row = await asyncio.to_thread(mixed_gateway.usage_row, request_id)
    assert (row["status"], row["estimated"]) == ("aborted", True)
    assert row["tokens_input"] > 0
    assert (row["tokens_output"] > 0) == bool(mark)
