"""The lean handler's request, and what it leans on in Django."""

from __future__ import annotations

import asyncio
import inspect
import io
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler, ASGIRequest

from gateway_site.asgi_handler import LeanASGIHandler, LeanRequest

pytestmark = pytest.mark.once
SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/chat/completions",
    "raw_path": b"/v1/chat/completions",
    "root_path": "",
    "query_string": b"a=1",
    "client": ("127.0.0.1", 5000),
    "server": ("127.0.0.1", 8000),
    "headers": [
        (b"host", b"localhost:8000"),
        (b"content-type", b"application/json; charset=utf-8"),
        (b"cookie", b"sessionid=abc"),
        (b"x-request-id", b"from-the-caller"),
        (b"authorization", b"Bearer one"),
        (b"authorization", b"Bearer two"),
    ],
}


async def never() -> Any:
    await asyncio.Event().wait()


def request_with(*headers: tuple[bytes, bytes]) -> LeanRequest:
    return LeanRequest({**SCOPE, "headers": list(headers)}, never)


@pytest.mark.parametrize("name", ["META", "COOKIES", "GET", "content_type", "path", "path_info"])
def test_a_lean_request_holds_what_djangos_own_holds(name: str) -> None:
    lean, djangos = LeanRequest(SCOPE, never), ASGIRequest(SCOPE, io.BytesIO())
    assert getattr(lean, name) == getattr(djangos, name)
    assert lean.get_host() == djangos.get_host()


def test_an_attribute_nobody_has_is_still_missing() -> None:
    with pytest.raises(AttributeError):
        LeanRequest(SCOPE, never).nothing_of_the_kind  # noqa: B018  the look is the test


def test_the_resolver_match_survives_the_first_look_at_meta() -> None:
    request = LeanRequest(SCOPE, never)
    request.resolver_match = "here"  # type: ignore[assignment]
    assert request.META["REQUEST_METHOD"] == "POST"
    assert request.resolver_match == "here"  # type: ignore[comparison-overlap]


def test_a_repeated_header_reads_as_in_meta() -> None:
    """Two credentials are one that nobody has, not the last of them."""
    request = LeanRequest(SCOPE, never)
    assert request.field(b"authorization") == "Bearer one,Bearer two"
    assert request.field(b"authorization") == request.META["HTTP_AUTHORIZATION"]
    assert request.field(b"host") == "localhost:8000"
    assert request.field(b"x-none") is None


@pytest.mark.parametrize(
    "offered",
    [b"", b"a" * 129, b"with space", b"caf\xc3\xa9", b"a\x7f"],
    ids=["empty", "long", "space", "not ascii", "control"],
)
def test_a_request_id_that_no_log_should_hold_is_replaced(offered: bytes) -> None:
    assert request_with((b"x-request-id", offered)).request_id.startswith("req_")


def test_a_good_request_id_is_kept() -> None:
    assert request_with((b"x-request-id", b"a" * 128)).request_id == "a" * 128


def test_django_has_what_the_handler_leans_on() -> None:
    """When this fails, Django has changed: read `django.core.handlers.asgi` again."""
    assert list(inspect.signature(ASGIHandler.__call__).parameters) == [
        *("self", "scope", "receive", "send")
    ]
    assert list(inspect.signature(ASGIRequest.__init__).parameters) == [
        *("self", "scope", "body_file")
    ]
    assert issubclass(LeanASGIHandler, ASGIHandler)


@pytest.mark.parametrize(
    ("cut", "expected"), [(1, b'{"a": 1}'), (3, b'{"a": 1}'), (8, b'{"a": 1}')]
)
async def test_a_body_in_many_pieces_is_read_whole(cut: int, expected: bytes) -> None:
    body = b'{"a": 1}'
    pieces = [body[at : at + cut] for at in range(0, len(body), cut)]
    messages = [
        {"type": "http.request", "body": piece, "more_body": at < len(pieces) - 1}
        for at, piece in enumerate(pieces)
    ]

    async def receive() -> Any:
        return messages.pop(0)

    request = LeanRequest(SCOPE, receive)
    assert await request.read_body(100, 5) == expected
    assert request.body_is_read


async def test_a_caller_who_leaves_in_the_middle_of_the_body_cancels_the_request() -> None:
    messages = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    with pytest.raises(asyncio.CancelledError):
        await LeanRequest(SCOPE, receive).read_body(100, 5)
