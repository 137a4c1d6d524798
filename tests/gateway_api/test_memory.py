"""What a request leaves behind in memory."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from gateway_api.resources import install_journal
from gateway_site.asgi_handler import LeanASGIHandler
from tests.gateway_api.conftest import Ask, make_provider, secret
from usage.journal import Journal

OURS = ("gateway_api.", "gateway_site.", "keys.", "providers.", "rest_framework.", "usage.")


async def send(handler: LeanASGIHandler, body: dict[str, Any]) -> bytes:
    """One chat completion on a connection whose caller stays."""
    raw = json.dumps(body).encode()
    messages = [{"type": "http.request", "body": raw, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def take(message: Any) -> None:
        sent.append(message)

    headers = {
        b"host": b"localhost",
        b"authorization": f"Bearer {secret('user')}".encode(),
        b"content-type": b"application/json",
        b"content-length": str(len(raw)).encode(),
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": list(headers.items()),
    }
    await handler(scope, receive, take)
    return b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_leaves_the_cyclic_collector_nothing(
    ask: Ask, tmp_path: Path, stream: bool
) -> None:
    """M2: what only the collector can free, piles up until it runs, and costs CPU when it does."""
    make_provider("demo", "", kind="fake")
    assert ask("GET", "/v1/models").status_code == 200
    journal = Journal(tmp_path / "journal", "worker", 1 << 24)
    install_journal(journal)
    body = {
        "model": "demo/echo",
        "messages": [{"role": "user", "content": "Say it again."}],
        "stream": stream,
    }

    handler = LeanASGIHandler()

    async def left() -> list[str]:
        for _ in range(3):
            assert b"again" in await send(handler, body)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(5):
                await send(handler, body)
            await asyncio.sleep(0)
            gc.collect()
            found = [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        return sorted({name for name in found if name.startswith(OURS)})

    try:
        assert async_to_sync(left)() == []
    finally:
        install_journal(None)
        journal.shut()
