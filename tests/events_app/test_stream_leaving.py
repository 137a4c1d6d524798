"""What a listener who leaves leaves behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client

from events_app.feed import feed
from gateway_api.native import events
from gateway_site.asgi_handler import LeanASGIHandler
from tests.gateway_api.conftest import make_key, secret


class Asked(NamedTuple):
    """What was answered to one who listens."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    serving: asyncio.Task[None]
    sent: list[Any]


@asynccontextmanager
async def listening(name: str = "", *, cookie: str = "") -> AsyncIterator[Asked]:
    """A listener with the key of this name, or with a session, who leaves at the end."""
    has_begun, leaves = asyncio.Event(), asyncio.Event()
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    credential = (b"authorization", f"Bearer {secret(name)}".encode())
    if cookie:
        credential = (b"cookie", cookie.encode())
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/events/stream",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"cookie", cookie.encode()) if cookie else credential,
        ],
    }

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            has_begun.set()

    serving = asyncio.create_task(LeanASGIHandler()(scope, receive, send))
    async with asyncio.timeout(10):
        await has_begun.wait()
    start, body = sent[:2]
    yield Asked(start["status"], dict(start["headers"]), body["body"], serving, sent)
    leaves.set()
    async with asyncio.timeout(1):
        await serving


@pytest.mark.django_db(transaction=True)
def test_who_leaves_is_forgotten_and_the_last_one_ends_the_reading() -> None:
    make_key("user")

    async def ask() -> Asked:
        async with listening("user") as asked:
            await asyncio.sleep(0.05)
            assert feed._task is not None
        return asked

    asked = async_to_sync(ask)()
    assert (feed._readers, feed._task) == (0, None)
    assert asked.headers[b"content-type"] == b"text/event-stream"
    assert asked.headers[b"cache-control"] == b"no-cache"
    assert asked.headers[b"x-accel-buffering"] == b"no"
    assert asked.body.startswith(b"retry: 2000\nid: ")


@pytest.mark.django_db(transaction=True)
def test_who_has_as_many_streams_as_one_may_is_refused_until_one_ends(settings: Any) -> None:
    make_key("user")
    make_key("another")
    settings.EVENT_STREAMS_PER_KEY = 2

    async def ask() -> None:
        async with (
            listening("user") as first,
            listening("user"),
            listening("user") as refused,
            listening("another") as unharmed,
        ):
            assert (first.status, refused.status, unharmed.status) == (200, 429, 200)
            assert refused.headers[b"retry-after"] == b"5"
            error = json.loads(refused.body)["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_streams")
        async with listening("user") as again:
            assert again.status == 200

    async_to_sync(ask)()


@pytest.mark.django_db(transaction=True)
def test_a_burst_of_streams_opens_no_more_than_one_may_have(settings: Any) -> None:
    make_key("user")
    settings.EVENT_STREAMS_PER_KEY = 3

    async def ask() -> list[int]:
        async with AsyncExitStack() as stack:
            entering = [stack.enter_async_context(listening("user")) for _ in range(12)]
            return [each.status for each in await asyncio.gather(*entering)]

    assert sorted(async_to_sync(ask)()) == [200] * 3 + [429] * 9


@pytest.mark.parametrize("loss", [{"is_staff": False}, {"is_active": False}, {"password": "!new"}])
@pytest.mark.django_db(transaction=True)
def test_the_stream_of_staff_who_are_none_any_longer_ends(
    loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RECHECK_S", 0.1)
    user = User.objects.create_user("ada", is_staff=True)
    client = Client()
    client.force_login(user)
    cookie = f"sessionid={client.cookies['sessionid'].value}"

    async def ask() -> Asked:
        async with listening(cookie=cookie) as asked:
            assert asked.status == 200
            await User.objects.filter(pk=user.pk).aupdate(**loss)
            async with asyncio.timeout(5):
                await asked.serving
        return asked

    ending = async_to_sync(ask)().sent[-1]["body"]
    assert ending.startswith(b"event: error\n")
    assert b"invalid_api_key" in ending
