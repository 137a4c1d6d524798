"""What a listener who leaves leaves behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from events_app.feed import feed
from gateway_site.asgi_handler import LeanASGIHandler
from tests.gateway_api.conftest import make_key, secret

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/v1/events/stream",
    "query_string": b"",
    "headers": [
        (b"host", b"localhost"),
        (b"authorization", f"Bearer {secret('user')}".encode()),
    ],
}


async def listen_and_leave() -> tuple[bool, list[Any]]:
    """Whether the feed was followed meanwhile, and what was sent."""
    has_begun, leaves = asyncio.Event(), asyncio.Event()
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            has_begun.set()

    serving = asyncio.create_task(LeanASGIHandler()(SCOPE, receive, send))
    await has_begun.wait()
    await asyncio.sleep(0.05)
    was_followed = feed._task is not None
    leaves.set()
    async with asyncio.timeout(1):
        await serving
    return was_followed, sent


@pytest.mark.django_db(transaction=True)
def test_who_leaves_is_forgotten_and_the_last_one_ends_the_reading() -> None:
    make_key("user")
    was_followed, sent = async_to_sync(listen_and_leave)()
    assert was_followed
    assert (feed._readers, feed._task) == (0, None)
    start, *bodies = sent
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"
    assert bodies[0]["body"].startswith(b"retry: 2000\nid: ")
