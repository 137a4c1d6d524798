"""Tools behind a URL: what they are sent, and what a model reads of what they do."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import zlib
from typing import Any

import pytest

from tests.tools_app.stage import SECRET, call, http_tool
from tests.upstream import Asked, Peer, Upstream, whole


async def test_a_tool_is_sent_the_call_signed(place: Upstream) -> None:
    place.script = whole(200, {"sky": "grey"})
    result = await call(http_tool(place.base_url, headers={"authorization": "Bearer t0k"}))
    assert (result.text, result.error) == ('{"sky": "grey"}', None)
    [asked] = place.asked
    assert asked.json() == {
        "name": "get_weather",
        "arguments": {"city": "Paris"},
        "call_id": "call_1",
        "session_id": "s1",
    }
    assert asked.headers["authorization"] == "Bearer t0k"
    stamp, _, signature = asked.headers["x-gateway-signature"].partition(",v1=")
    seconds = stamp.removeprefix("t=")
    signed = f"{seconds}.".encode() + asked.body
    assert signature == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert abs(time.time() - int(seconds)) < 60


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"grey", "text/plain", "grey"),
        ("grau, 3\u00a0°C".encode(), "text/html; charset=utf-8", "grau, 3\u00a0°C"),
        (b"caf\xe9", "text/plain; charset=ISO-8859-1", "caf\u00e9"),
        (b"", "application/json", ""),
        (b"[1]", "application/problem+json", "[1]"),
    ],
)
async def test_text_of_any_type_is_given_to_the_model(
    place: Upstream, body: bytes, content_type: str, text: str
) -> None:
    place.script = whole(200, body, content_type=content_type)
    assert (await call(http_tool(place.base_url))).text == text


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\x89PNG\x0d\x0a\xff\xfe", "image/png"),
        (b"a\0b", "text/plain"),
        (b"{not json", "application/json"),
    ],
)
async def test_garbage_is_a_failing_result(place: Upstream, body: bytes, content_type: str) -> None:
    place.script = whole(200, body, content_type=content_type)
    assert (await call(http_tool(place.base_url))).error == "unreadable"


async def test_an_error_status_is_a_failing_result_with_its_words(place: Upstream) -> None:
    place.script = whole(503, b"closed on Sundays", content_type="text/plain")
    result = await call(http_tool(place.base_url))
    assert result.error == "status"
    assert "503" in result.text and "closed on Sundays" in result.text


@pytest.mark.parametrize(
    "arguments", ["", "{}", '{"city": 3}', "[1]", "{", '"Paris"', "null", "\ud800"]
)
async def test_a_tool_is_not_called_with_arguments_that_do_not_fit(
    place: Upstream, arguments: str
) -> None:
    result = await call(http_tool(place.base_url), arguments)
    assert result.error == "invalid_arguments" and "not called" in result.text
    assert place.asked == []


async def test_a_hostile_pattern_costs_no_time(place: Upstream) -> None:
    pattern = {"type": "string", "pattern": "^(a+)+$"}
    parameters = {"type": "object", "properties": {"city": pattern}}
    started = time.monotonic()
    arguments = json.dumps({"city": "a" * 40 + "!"})
    result = await call(http_tool(place.base_url, parameters=parameters), arguments)
    assert result.error == "invalid_arguments"
    assert time.monotonic() - started < 2


async def test_a_schema_is_never_fetched(place: Upstream) -> None:
    parameters = {"type": "object", "properties": {"city": {"$ref": f"{place.base_url}/schema"}}}
    result = await call(http_tool(place.base_url, parameters=parameters))
    assert result.error == "invalid_arguments"
    assert place.asked == [] and place.listings == 0


async def never(asked: Asked, peer: Peer) -> None:
    await asyncio.sleep(3600)


async def trickle(asked: Asked, peer: Peer) -> None:
    peer.begin(content_type="text/plain")
    while True:
        peer.piece(b".")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("script", [never, trickle])
async def test_a_tool_that_never_ends_costs_only_its_timeout(place: Upstream, script: Any) -> None:
    place.script = script
    started = time.monotonic()
    result = await call(http_tool(place.base_url, timeout_s=0.3))
    assert result.error == "timeout"
    assert time.monotonic() - started < 2


async def endless(asked: Asked, peer: Peer) -> None:
    peer.begin(content_type="text/plain")
    for _ in range(100):
        peer.piece(b"x" * (1 << 20))
        await asyncio.sleep(0)


async def test_a_hundred_megabytes_are_not_taken(place: Upstream) -> None:
    place.script = endless
    assert (await call(http_tool(place.base_url))).error == "too_large"


async def test_a_small_body_that_unpacks_to_a_huge_one_is_not_taken(place: Upstream) -> None:
    packed = zlib.compress(b"\x20" * (100 << 20), 9)
    assert len(packed) < 1 << 20
    place.script = whole(200, packed, content_type="text/plain", content_encoding="deflate")
    assert (await call(http_tool(place.base_url))).error == "too_large"


async def hang_up(asked: Asked, peer: Peer) -> None:
    peer.hang_up()


async def test_a_tool_that_hangs_up_is_a_failing_result_and_asked_once(place: Upstream) -> None:
    place.script = hang_up
    assert (await call(http_tool(place.base_url))).error == "network"
    assert len(place.asked) == 1


async def test_a_cancelled_call_is_cancelled(place: Upstream) -> None:
    place.script = never
    task = asyncio.create_task(call(http_tool(place.base_url)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_tool_is_not_run_here() -> None:
    tool = http_tool("", kind="client")
    assert (await call(tool)).error == "not_runnable"


async def test_a_tool_whose_secret_cannot_be_read_is_not_called(place: Upstream) -> None:
    result = await call(http_tool(place.base_url, problem="its secrets are unreadable"))
    assert result.error == "not_configured"
    assert place.asked == []
