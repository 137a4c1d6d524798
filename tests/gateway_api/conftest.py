"""The API asked in this process: the lean handler, a database, and the snapshot read from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from asgiref.sync import async_to_sync

from gateway_site.asgi_handler import LeanASGIHandler
from keys.models import VirtualKey
from keys.ring import ring
from providers import discovery, snapshot
from providers.models import ConfigRevision, Provider
from tools_app import listings
from tools_app import snapshot as tools

CANARY = "sk-canary-5f2b8c1d9e7a4036"
Ask = Callable[..., httpx2.Response]


def secret(name: str) -> str:
    return f"gw-test-{name}-0123456789abcdef0123456789"


@pytest.fixture
def ask(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Asks as a key: `admin` may see everything, `user` is an ordinary one, and what `make_key`
    made; None is nobody. The database's configuration of that moment is in force."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    ConfigRevision.objects.get_or_create(pk=1)  # emptied with the other tables before this test
    Provider.objects.all().delete()
    make_key("admin", admin=True)
    make_key("user")
    discovery.forget()

    def call(
        method: str, path: str, body: Any = None, *, key: str | None = "user", **headers: str
    ) -> Any:
        snapshot.install(snapshot.load())
        tools.install(tools.load())
        ring.forget()
        if key:
            headers["authorization"] = f"Bearer {secret(key)}"
        return _send(method, path, body, headers)

    yield call
    snapshot.install(snapshot.EMPTY)
    tools.install(tools.EMPTY)
    listings.forget()
    ring.forget()
    discovery.forget()


@async_to_sync
async def _send(method: str, path: str, body: Any, headers: dict[str, str]) -> httpx2.Response:
    if body is not None:
        headers["content-type"] = "application/json"
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    handler: Any = LeanASGIHandler()
    transport = httpx2.ASGITransport(app=handler)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path, content=raw, headers=headers)


def make_key(name: str, **fields: Any) -> VirtualKey:
    row = VirtualKey(name=name, **fields)
    row.set_secret(secret(name))
    row.save()
    return row


def make_provider(name: str, base_url: str, **fields: Any) -> Provider:
    row = Provider(name=name, **({"kind": "openai-compatible", "base_url": base_url} | fields))
    row.set_api_key(fields.get("api_key", CANARY))
    row.save()
    return row
