"""Bodies whose parsing would keep everybody else waiting."""

from __future__ import annotations

import threading

import pytest
from django.test import RequestFactory
from rest_framework.request import Request

from chat.errors import InvalidRequest
from chat.parsing import parse_object
from gateway_api.async_view import LARGE, read_parsed

pytestmark = pytest.mark.once


def post(body: bytes) -> Request:
    return Request(RequestFactory().post("/", body, content_type="application/json"))


def parsing_thread(raw: bytes) -> int:
    return threading.get_ident()


async def test_a_small_body_is_parsed_at_once() -> None:
    assert await read_parsed(post(b"{}"), parsing_thread) == threading.get_ident()


async def test_a_large_body_is_parsed_beside_the_loop() -> None:
    body = b'{"a": "' + b"x" * LARGE + b'"}'
    assert await read_parsed(post(body), parsing_thread) != threading.get_ident()


async def test_what_is_wrong_with_a_large_body_is_told() -> None:
    with pytest.raises(InvalidRequest):
        await read_parsed(post(b'{"a": "' + b"x" * LARGE), parse_object)
