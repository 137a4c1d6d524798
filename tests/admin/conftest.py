"""People of different rights, and an upstream that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from keys.models import VirtualKey
from providers.models import Deployment, Provider

CANARY = "sk-canary-5f2b8c1d9e7a4036"

ClientWith = Callable[..., Client]


@dataclass
class Upstream:
    """An HTTP server on loopback. `status`, `body` and `silent` say how it answers,
    `status_of_list` and `completion` how to one of the two questions; `seen` is what it was asked:
    method, path, authorization."""

    port: int = 0
    status: int = 200
    status_of_list: int | None = None
    body: Any = field(default_factory=lambda: {"data": [{"id": "model-a"}, {"id": "model-b"}]})
    completion: Any = field(
        default_factory=lambda: {
            "choices": [{"message": {"content": "hi"}, "finish_reason": "length"}]
        }
    )
    silent: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    told = Upstream()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(told.body, told.status_of_list or told.status)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.answer(told.completion, told.status)

        def answer(self, body: Any, status: int) -> None:
            told.seen.append((self.command, self.path, self.headers.get("authorization", "")))
            if told.silent:
                told.released.wait(5)
                self.close_connection = True
                return
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield told
    told.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def quick_passwords(settings: Any) -> None:
    """A password hash made to be slow would be half of the suite's time."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def client_with(db: None) -> ClientWith:
    """A client signed in as staff who holds the named permissions (`app.codename`)."""

    def sign_in(*permissions: str) -> Client:
        user = User.objects.create_user(f"staff{User.objects.count()}", is_staff=True)
        for permission in permissions:
            app, codename = permission.split(".")
            user.user_permissions.add(
                Permission.objects.get(content_type__app_label=app, codename=codename)
            )
        client = Client()
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def provider(db: None, upstream: Upstream) -> Provider:
    row = Provider(name="vllm", kind="openai-compatible", base_url=upstream.base_url)
    row.set_api_key(CANARY)
    row.save()
    return row


@pytest.fixture
def deployment(provider: Provider) -> Deployment:
    return Deployment.objects.create(provider=provider, model="model-a")


@pytest.fixture
def key(db: None) -> VirtualKey:
    return make_key("ci")


def make_key(name: str, **fields: Any) -> VirtualKey:
    row = VirtualKey(name=name, **fields)
    row.set_secret(f"gw-{name}-canary-0123456789abcdef0123456789abcdef")
    row.save()
    return row


def provider_form(row: Provider | None = None, **changes: Any) -> dict[str, Any]:
    """What a browser posts for the provider's change form."""
    posted = {
        "name": row.name if row else "new",
        "kind": row.kind if row else "openai-compatible",
        "enabled": "on",
        "base_url": row.base_url if row else "http://127.0.0.1:9/v1",
        "base_url_env": "",
        "new_api_key": "",
        "api_key_env": row.api_key_env if row else "",
        "timeout_connect_s": "5",
        "timeout_first_byte_s": "60",
        "timeout_idle_s": "60",
        "timeout_total_s": "600",
        "max_retries": "2",
        "breaker_failures": "5",
        "breaker_rate": "0.5",
        "breaker_window_s": "30",
        "breaker_open_s": "30",
        "options": "{}",
        **management("deployments"),
    }
    return posted | changes


def management(prefix: str, *, total: int = 0, initial: int = 0) -> dict[str, str]:
    """The hidden fields of an inline without rows, or with as many as said."""
    return {f"{prefix}-TOTAL_FORMS": str(total), f"{prefix}-INITIAL_FORMS": str(initial)}
