"""Who may ask what: every method of every address, as each kind of caller (CVE-2026-35029).

An address or a method without a line here is a failure: nobody has said who may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.middleware.csrf import get_token
from django.test import Client, RequestFactory
from django.utils import timezone

from gateway_api.not_found import UnknownAddressView
from gateway_api.urls import urlpatterns
from gateway_site.asgi_handler import LeanASGIHandler
from tests.gateway_api.conftest import Ask, make_key, secret

ANYBODY = {"/livez": "GET", "/readyz": "GET"}
ADMINS = {
    "/metrics": "GET",
    "/v1/providers/test": "POST",
    "/v1/tools/register": "POST",
    "/v1/tools/{name}": "DELETE",
}
CALLERS = {
    **{f"/api/{name}": "GET" for name in ("tags", "ps", "version")},
    **{f"/api/{name}": "POST" for name in ("chat", "generate", "embed", "embeddings", "show")},
    "/v1/audio/speech": "POST",
    "/v1/audio/transcriptions": "POST",
    "/v1/audio/translations": "POST",
    "/v1/batches": "GET POST",
    "/v1/batches/{batch_id}": "GET",
    "/v1/batches/{batch_id}/cancel": "POST",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/conversations": "POST",
    "/v1/conversations/{conversation_id}": "GET POST DELETE",
    "/v1/conversations/{conversation_id}/items": "GET POST",
    "/v1/conversations/{conversation_id}/items/{item_id}": "GET DELETE",
    "/v1/embeddings": "POST",
    "/v1/events/stream": "GET",
    "/v1/files": "GET POST",
    "/v1/files/{file_id}": "GET DELETE",
    "/v1/files/{file_id}/content": "GET",
    "/v1/generate/structured": "POST",
    "/v1/images/edits": "POST",
    "/v1/images/generations": "POST",
    "/v1/images/variations": "POST",
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/models": "GET",
    "/v1/models/{name}": "GET",
    "/v1/moderations": "POST",
    "/v1/providers": "GET",
    "/v1/providers/{name}/models": "GET",
    "/v1/rerank": "POST",
    "/v1/responses": "POST",
    "/v1/responses/{response_id}": "GET DELETE",
    "/v1/responses/{response_id}/cancel": "POST",
    "/v1/responses/{response_id}/input_items": "GET",
    "/v1/sessions": "GET POST",
    "/v1/sessions/import": "POST",
    "/v1/sessions/{session_id}": "GET PATCH DELETE",
    "/v1/sessions/{session_id}/chat": "POST",
    "/v1/sessions/{session_id}/compact": "POST",
    "/v1/sessions/{session_id}/export": "GET",
    "/v1/sessions/{session_id}/fork": "POST",
    "/v1/status": "GET",
    "/v1/tools": "GET",
    "/v1/tools/{name}": "GET",
    "/v1/usage": "GET",
    "/v1/usage/summary": "GET",
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
Line = tuple[str, str]


def lines(table: dict[str, str]) -> set[Line]:
    return {(method, path) for path, methods in table.items() for method in methods.split()}


def served() -> set[Line]:
    """Every method that a view of the URLconf has a handler for."""
    found = set()
    for pattern in urlpatterns:
        callback: Any = pattern.callback
        view = callback.view_class
        if not issubclass(view, UnknownAddressView):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", f"/{pattern.pattern}")
            found |= {(name, path) for name in METHODS if hasattr(view, name.lower())}
    return found


@pytest.mark.once
def test_somebody_has_said_who_may_ask_what() -> None:
    said = [lines(table) for table in (ANYBODY, CALLERS, ADMINS)]
    assert set.union(*said) == served()
    assert sum(map(len, said)) == len(set.union(*said))


# --- as everybody -------------------------------------------------------------------------------


def cookies_of(user: User, *, with_token: bool) -> dict[str, str]:
    browser, page = Client(), RequestFactory().get("/")
    browser.force_login(user)
    token = get_token(page)
    session = browser.cookies["sessionid"].value
    told = {"cookie": f"sessionid={session}; csrftoken={page.META['CSRF_COOKIE']}"}
    return told | ({"x-csrftoken": token} if with_token else {})


@pytest.fixture
def callers(ask: Ask) -> Iterator[dict[str, dict[str, str]]]:
    """The headers of each kind of caller."""
    make_key("some", allowed_models=["smart"])
    make_key("revoked", enabled=False, admin=True)
    make_key("expired", expires_at=timezone.now() - timedelta(seconds=1), admin=True)
    ask("GET", "/livez")  # puts the configuration in force
    staff = User.objects.create_user("ada", is_staff=True)
    customer = User.objects.create_user("eve")
    admin = secret("admin")
    yield {
        "nobody": {},
        "wrong": {"authorization": "Bearer gw-wrong"},
        "basic": {"authorization": f"Basic {admin}"},
        "wrong beside right": {"authorization": "Bearer gw-wrong", "x-api-key": admin},
        "revoked": {"x-api-key": secret("revoked")},
        "expired": {"api-key": secret("expired")},
        "customer": cookies_of(customer, with_token=True),
        "user": {"authorization": f"Bearer {secret('user')}"},
        "some": {"x-api-key": secret("some")},
        "admin": {"api-key": admin},
        "staff": cookies_of(staff, with_token=True),
        "forged": cookies_of(staff, with_token=False),
    }


def expected(method: str, path: str, caller: str) -> str:
    """In one word: what each caller gets of a method that is there."""
    if (method, path) in lines(ANYBODY):
        return "in"
    if caller in ("user", "some"):
        return "forbidden" if (method, path) in lines(ADMINS) else "in"
    if caller == "forged":
        return "in" if method == "GET" else "forbidden"
    return "in" if caller in ("admin", "staff") else "unknown"


def met(status: int) -> str:
    return {401: "unknown", 403: "forbidden"}.get(status, "in")


@async_to_sync
async def statuses(callers: dict[str, dict[str, str]]) -> dict[tuple[str, str, str], int]:
    handler: Any = LeanASGIHandler()
    transport = httpx2.ASGITransport(app=handler)
    found = {}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method, path in sorted(served()):
            # The stream of events has no end for who may read it.
            asked = "HEAD" if path == "/v1/events/stream" else method
            address = re.sub(r"{\w+}", "nothing", path)
            for caller, headers in callers.items():
                body: Any = None if method == "GET" else {}
                answer = await client.request(asked, address, headers=headers, json=body)
                found[method, path, caller] = answer.status_code
    return found


def test_each_address_is_for_whom_it_is_for(callers: dict[str, dict[str, str]]) -> None:
    found = statuses(callers)
    wrong = {
        line: status
        for line, status in found.items()
        if met(status) != expected(*line) or status == 500
    }
    assert wrong == {}
