"""Whatever an upstream does instead of answering: one kind of error, of the right class, that says
whether trying again can help, and tells neither who we are nor whom we asked."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chat.errors import (
    GatewayError,
    UpstreamCredentials,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from providers.adapters.base import ChatAdapter
from providers.http import HttpClient, HttpReply, Timeouts
from tests.contract.dialects import Answer
from tests.contract.stage import SECRET, FakeStage, HttpStage, Stage, ask, stream
from tests.gateway import free_port
from tests.upstream import Asked, Peer, Script, Upstream, head, whole

pytestmark = pytest.mark.once

HURRIED = Timeouts(connect=1, first_byte=0.2, idle=0.2, total=5)
STATUSES: dict[int, tuple[type[UpstreamError], int, bool]] = {
    # what the upstream says: what it means, what a caller sees, whether trying again can help
    302: (UpstreamFailed, 502, False),
    400: (UpstreamRejected, 400, False),
    401: (UpstreamCredentials, 502, False),
    402: (UpstreamCredentials, 502, False),
    403: (UpstreamCredentials, 502, False),
    404: (UpstreamRejected, 404, False),
    408: (UpstreamTimeout, 504, True),
    409: (UpstreamRejected, 409, False),
    413: (UpstreamRejected, 413, False),
    422: (UpstreamRejected, 422, False),
    429: (UpstreamRateLimited, 429, True),
    500: (UpstreamFailed, 502, True),
    502: (UpstreamFailed, 502, True),
    503: (UpstreamOverloaded, 503, True),
    504: (UpstreamTimeout, 504, True),
    529: (UpstreamOverloaded, 503, True),
}
SAYING_NOTHING = {
    "a page of HTML": b"<html><body><h1>Bad Gateway</h1></body></html>",
    "nothing": b"",
    "null": b"null",
    "a list": b"[1, [2]]",
    "a number": b"17",
    "a string": b'"no"',
    "an error without words": b'{"error": null}',
    "an error of numbers": b'{"error": {"message": 1, "type": 2, "code": 3, "param": [4]}}',
    "a list of errors": b'{"error": [{"message": "x"}]}',
    "half of JSON": b'{"error": {"message": "x',
    "bytes that are no text": b'{"error": {"message": "\xff\xfe"}}',
    "nesting without end": b'{"error":' * 100_000,
    "lists without end": b"[" * 100_000,
    "half a surrogate": b'{"error": {"message": "\\ud800"}}',
    "a number without end": b'{"error": {"message": ' + b"9" * 5000 + b"}}",
}


def expect(error: GatewayError | None, status: int) -> UpstreamError:
    kind, shown, retryable = STATUSES[status]
    assert isinstance(error, kind), error
    assert (error.http_status, error.retryable) == (shown, retryable)
    assert error.upstream_status == status
    assert error.message
    return error


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [status for status in STATUSES if status >= 400])
async def test_a_status_is_an_error_of_the_right_class(
    stage: Stage, status: int, *, streams: bool
) -> None:
    adapter = stage.failing(status, "told", retry_after="7")
    error = expect(await ask(adapter, stage.request(stream=streams)), status)
    assert error.retry_after == ("7" if status in (429, 500, 502, 503, 529) else None)
    if not isinstance(error, UpstreamCredentials):
        assert error.message == "told"


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("body", SAYING_NOTHING.values(), ids=SAYING_NOTHING.keys())
async def test_a_status_alone_tells_enough(
    http_stage: HttpStage, body: bytes, *, streams: bool
) -> None:
    for status in STATUSES:
        adapter = http_stage.answering(body, status, content_type="text/html")
        expect(await ask(adapter, http_stage.request(stream=streams)), status)
        assert http_stage.http.played[0].closed


async def test_a_listing_fails_as_a_chat_does(http_stage: HttpStage) -> None:
    for status in STATUSES:
        for body in (b"<html>", json.dumps(http_stage.dialect.error("told")).encode()):
            with pytest.raises(UpstreamError) as caught:
                await http_stage.answering(body, status).list_models()
            expect(caught.value, status)


# --- errors in the middle of a stream -----------------------------------------------------------


async def test_an_error_after_words_is_raised_after_the_words(http_stage: HttpStage) -> None:
    dialect = http_stage.dialect
    events = [*dialect.said(Answer(words=("Hel", "lo"))), dialect.error_event("told")]
    for packets in (events, [b"".join(events)]):
        got = await stream(http_stage.streaming(packets), http_stage.request(stream=True))
        assert got.text == "Hello"
        assert got.finishes == []
        assert isinstance(got.error, UpstreamFailed)
        assert got.error.message == "told"
        assert http_stage.http.played[0].closed


async def test_an_error_at_once_has_nothing_before_it(http_stage: HttpStage) -> None:
    adapter = http_stage.streaming([http_stage.dialect.error_event("told")])
    got = await stream(adapter, http_stage.request(stream=True))
    assert (got.text, got.finishes, got.usages) == ("", [], [])
    assert isinstance(got.error, UpstreamFailed)


async def test_a_whole_answer_may_be_an_error_with_a_good_status(http_stage: HttpStage) -> None:
    for streams in (False, True):
        body = json.dumps(http_stage.dialect.error("told")).encode()
        error = await ask(http_stage.answering(body), http_stage.request(stream=streams))
        assert isinstance(error, UpstreamError)
        assert error.message == "told"


# --- streams that break off ---------------------------------------------------------------------


async def test_a_stream_that_breaks_off_is_an_error(stage: Stage) -> None:
    words = Answer(words=("Hello", " there"))
    got = await stream(stage.breaking_off(words), stage.request(stream=True))
    assert got.text == "Hello there"
    assert isinstance(got.error, UpstreamUnreachable)
    assert got.error.kind == "network"
    assert (got.finishes, got.usages) == ([], [])


async def test_an_end_is_never_invented_wherever_a_stream_is_cut(http_stage: HttpStage) -> None:
    dialect = http_stage.dialect
    answer = Answer(words=("Hel", "lo"))
    raw, end = b"".join(dialect.said(answer)), b"".join(dialect.ended(answer))
    first = dialect.ended(answer)[0]
    for cut in [*range(0, len(raw), 7), len(raw), len(raw) + len(first) // 2]:
        got = await stream(
            http_stage.streaming([(raw + end)[:cut]]), http_stage.request(stream=True)
        )
        assert isinstance(got.error, UpstreamUnreachable), (cut, got.error)
        assert (got.error.kind, got.error.retryable) == ("network", True)
        assert got.finishes == [], cut
        assert "Hello".startswith(got.text)


# --- connections --------------------------------------------------------------------------------


def dialed(stage: HttpStage, client: HttpClient | Marked, port: int) -> ChatAdapter:
    return stage.adapter(client, f"http://127.0.0.1:{port}", timeouts=HURRIED)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_a_refused_connection_is_worth_another_try(
    http_stage: HttpStage, client: HttpClient, *, streams: bool
) -> None:
    adapter = dialed(http_stage, client, free_port())
    error = await ask(adapter, http_stage.request(stream=streams))
    assert isinstance(error, UpstreamUnreachable)
    assert (error.kind, error.retryable, error.http_status) == ("network", True, 502)


class Marked:
    """A client whose requests say how they shall fail."""

    def __init__(self, client: HttpClient, early: str) -> None:
        self._client, self._early = client, early

    async def request(self, method: str, url: str, **more: Any) -> HttpReply:
        more["headers"] = {**more["headers"], "x-early": self._early}
        return await self._client.request(method, url, **more)


def reset_after(sent: bytes) -> Script:
    async def script(asked: Asked, peer: Peer) -> None:
        if sent:
            peer.write(sent)
            await asyncio.sleep(0.02)
        connection = peer._transport.get_extra_info("socket")
        # No time to linger makes it a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00" + bytes(4))
        peer.hang_up()

    return script


def silent_after(sent: bytes) -> Script:
    async def script(asked: Asked, peer: Peer) -> None:
        if sent:
            peer.write(sent)
        await asyncio.Event().wait()

    return script


def begun(stage: HttpStage, *, streams: bool) -> bytes:
    """The head of an answer and the first of its bytes."""
    if not streams:
        told = {"content_type": "application/json", "content_length": "500"}
        return head(200, told) + b'{"id": "x"'
    told = {"content_type": stage.dialect.content_type, "transfer_encoding": "chunked"}
    events = b"".join(stage.dialect.said(Answer(words=("Hel", "lo"))))
    return head(200, told) + b"%x\r\n%b\r\n" % (len(events), events)


@pytest.mark.parametrize("does", [reset_after, silent_after])
async def test_a_connection_that_fails_is_told_as_what_it_is(
    http_stage: HttpStage,
    client: HttpClient,
    server: Upstream,
    does: Callable[[bytes], Script],
) -> None:
    def play(asked: Asked, peer: Peer) -> Awaitable[None]:
        streams = http_stage.dialect.read(asked.json()).streams
        early = asked.headers["x-early"] == "yes"
        return does(b"" if early else begun(http_stage, streams=streams))(asked, peer)

    async def fail(*, early: bool, streams: bool) -> None:
        adapter = dialed(http_stage, Marked(client, "yes" if early else "no"), server.port)
        request = http_stage.request(stream=streams)
        got = await stream(adapter, request) if streams else None
        error = got.error if got is not None else await ask(adapter, request)
        silent = does is silent_after
        assert isinstance(error, UpstreamTimeout if silent else UpstreamUnreachable)
        assert (error.http_status, error.retryable) == (504 if silent else 502, early)
        if got is not None:
            assert (got.text, got.finishes) == ("" if early else "Hello", [])

    server.script = play
    every = [(early, streams) for early in (True, False) for streams in (True, False)]
    async with asyncio.timeout(2):
        await asyncio.gather(*(fail(early=early, streams=streams) for early, streams in every))


# --- what nobody may be told --------------------------------------------------------------------

TELLTALE = (
    "Incorrect key {secret} (Bearer {secret}); ask http://{host}/v1 or {host}, "
    "https://127.0.0.1:9/x, sk-{stars}cdef"
)


def telltales(host: str) -> str:
    return TELLTALE.format(secret=SECRET, host=host, stars="*" * 12)


def keeps_quiet(error: GatewayError | None, host: str) -> None:
    assert error is not None
    shown = [error.message, str(error), error.code, error.param, error.error_type, error.details]
    told = repr(shown)
    for secret in (SECRET, host, "127.0.0.1", "cdef"):
        assert secret not in told, told


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_no_error_tells_a_secret_or_an_address(
    http_stage: HttpStage, *, streams: bool
) -> None:
    host = "10.9.8.7:65000"
    request = http_stage.request(stream=streams)
    for status in (*STATUSES, 200):
        told = http_stage.dialect.error(telltales(host))
        if isinstance(told["error"], dict):
            told["error"] |= dict.fromkeys(("type", "code", "param"), telltales(host))
            told["error"]["details"] = {"seen": [telltales(host)]}
        adapter = http_stage.answering(json.dumps(told).encode(), status)
        keeps_quiet(await ask(adapter, request), host)
    if streams:
        events = [
            *http_stage.dialect.said(Answer(words=("x",))),
            http_stage.dialect.error_event(telltales(host)),
        ]
        keeps_quiet(await ask(http_stage.streaming(events), request), host)


async def test_no_failed_connection_tells_the_address(
    http_stage: HttpStage, client: HttpClient, server: Upstream
) -> None:
    port = free_port()
    error = await ask(dialed(http_stage, client, port), http_stage.request(stream=True))
    keeps_quiet(error, f":{port}")
    for script in (whole(200, b"garbage"), whole(302, b"", location=f"http://{SECRET}/")):
        server.script = script
        adapter = dialed(http_stage, client, server.port)
        keeps_quiet(await ask(adapter, http_stage.request(stream=False)), f":{server.port}")


async def test_a_fake_model_that_is_not_there_is_not_found() -> None:
    stage = FakeStage()
    error = await ask(stage.listing(["other"]), stage.request(stream=False))
    assert error is not None
    assert error.http_status == 404
