"""Upstreams that tell our own credential wherever they can: it gets to nobody (M42)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import anthropic_upstream as claude
from tests.conftest import spare_database
from tests.contract.kinds import SPEAKS
from tests.gateway import KEY, Answered, Gateway, configuration
from tests.upstream import (
    DONE,
    NDJSON,
    Asked,
    Peer,
    Script,
    Upstream,
    chat_line,
    chunk,
    completion,
    event,
    last_line,
    line,
    scripted_upstream,
    silence,
    streaming,
    whole,
)

pytestmark = pytest.mark.once

CANARY = "Canary5f2b/8c1d9e7a40+36"
ADMIN = "gw-test-admin-0123456789abcdef0123456789"
STATUSES = (200, 201, 302, 400, 401, 403, 404, 408, 413, 422, 429, 500, 501, 503, 529)
HELLO = [{"role": "user", "content": "hello"}]
CHATS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/responses": {"input": "hello"},
    "/v1/completions": {"prompt": "hello"},
    "/v1/messages": {"max_tokens": 9, "messages": HELLO},
    "/api/chat": {"messages": HELLO},
    "/api/generate": {"prompt": "hello"},
}
OTHERS: dict[str, dict[str, Any]] = {
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/embeddings": {"input": "hello"},
    "/api/embed": {"input": "hello"},
    "/api/embeddings": {"prompt": "hello"},
}
RELAYS: dict[str, dict[str, Any]] = {
    "/v1/moderations": {"input": "hello"},
    "/v1/rerank": {"query": "a", "documents": ["a"]},
    "/v1/images/generations": {"prompt": "a"},
    "/v1/audio/speech": {"input": "a", "voice": "b"},
}
ACCOUNT = (
    "/v1/files",
    "/v1/files/file-1",
    "/v1/files/file-1/content",
    "/v1/batches",
    "/v1/batches/batch_1",
)
ADMINS = (
    "/v1/models",
    "/v1/providers",
    "/v1/providers?refresh=true",
    "/api/tags",
    "/api/ps",
    "/v1/usage",
    "/v1/usage/summary",
)
TOLD = f"Bearer {CANARY} is wrong"
ERROR = {"message": TOLD, "type": CANARY, "code": CANARY, "param": CANARY, "details": {"a": TOLD}}
ERRORS: list[Any] = [
    {"type": "error", "error": ERROR, "detail": TOLD, "message": TOLD, "input_tokens": 1},
    {"error": TOLD, "done": True, "choices": []},
    {"detail": [{"msg": TOLD}], "message": TOLD},
    TOLD.encode(),
    b"<html>" + TOLD.encode(),
    json.dumps({"error": {"message": TOLD}}).replace("/", "\\/").encode(),
]
HEADERS = {
    "retry_after": CANARY,
    "x_request_id": CANARY,
    "request_id": CANARY,
    "www_authenticate": CANARY,
    "set_cookie": CANARY,
    "location": f"/{CANARY}",
}
ECHO = {"headers": {"authorization": TOLD}}


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A provider of every kind, named by it, and `native`, which has the Responses API; all of
    them one upstream. The log tells everything."""
    folder: Path = tmp_path_factory.mktemp("canary")
    settings = configuration(provider.base_url, api_key=CANARY)
    (scripted,) = settings["providers"]
    settings["providers"] = [
        *({**scripted, "name": kind, "kind": kind} for kind in SPEAKS),
        {**scripted, "name": "native", "options": {"responses": True}},
    ]
    settings["routes"] = []
    settings["keys"].append({"name": "admin", "secret": ADMIN, "admin": True})
    with spare_database(folder) as url:
        gateway = Gateway(folder, url, log_level="debug")
        gateway.apply(settings)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def check(answered: Answered, *, asked: object) -> None:
    told = answered.body.replace(b"\\/", b"/") + str(answered.headers).encode()
    assert CANARY.encode() not in told, (asked, answered)
    assert b"The gateway failed" not in answered.body, (asked, answered)


KINDS = (*SPEAKS, "native")
ADAPTERS = ("openai-compatible", "anthropic", "ollama", "native")


def ask_all(gateway: Gateway, kinds: tuple[str, ...] = KINDS, *, whole: bool = True) -> None:
    """Every endpoint that asks a model, of every kind."""
    for kind in kinds:
        for path, fields in CHATS.items():
            for stream in (False, True) if whole else (True,):
                request = {"model": f"{kind}/m", "stream": stream, **fields}
                check(gateway.post(path, request), asked=(kind, path, stream))
    for kind in ("openai-compatible", "anthropic", "ollama") if whole else ():
        for path, fields in OTHERS.items():
            check(gateway.post(path, {"model": f"{kind}/m", **fields}), asked=(kind, path))


def ask_relays(gateway: Gateway) -> None:
    for path, fields in RELAYS.items():
        request = {"model": "openai-compatible/m", **fields}
        check(gateway.post(path, request), asked=path)
    for path in ACCOUNT:
        headers = {"authorization": f"Bearer {KEY}", "x-gateway-provider": "openai-compatible"}
        check(gateway.call("GET", path, headers=headers), asked=path)


def ask_admins(gateway: Gateway) -> None:
    """What tells of providers, and of their tests."""
    headers = {"authorization": f"Bearer {ADMIN}"}
    listings = [f"/v1/providers/{kind}/models?refresh=true" for kind in SPEAKS]
    for path in (*listings, *ADMINS):
        check(gateway.call("GET", path, headers=headers), asked=path)
    for kind in (*SPEAKS, "native"):
        request = {"name": kind, "model": "m", "timeout": 5}
        tested = gateway.post("/v1/providers/test", request, authorization=f"Bearer {ADMIN}")
        check(tested, asked=("test", kind))


def check_what_is_kept(gateway: Gateway) -> None:
    """The log, the journal and whatever else is written but the secrets' own columns."""
    assert "DEBUG" in gateway.log or "INFO" in gateway.log
    assert CANARY not in gateway.log
    for path in (gateway.folder / "data").rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def failing(provider: Upstream, script: Script) -> None:
    provider.script = provider.listing = script


@pytest.mark.parametrize("status", STATUSES)
def test_an_error_tells_nobody_our_credential(
    served: Gateway, provider: Upstream, status: int
) -> None:
    for at, body in enumerate(ERRORS):
        failing(provider, whole(status, body, **HEADERS))
        if status in (200, 400, 429, 503) or not at:
            ask_all(served)
        ask_relays(served)
        if not at or status in (200, 400):
            ask_admins(served)
    for told in ("application/json; k=", "text/plain; k=", ""):
        failing(provider, whole(status, TOLD.encode(), content_type=told + CANARY))
        ask_relays(served)
    check_what_is_kept(served)


SSE = "text/event-stream"
STREAMS: dict[str, tuple[list[bytes], str]] = {
    "openai": ([chunk(content="Hi"), event({"error": ERROR})], SSE),
    "openai, at once": ([event({"error": ERROR})], SSE),
    "words": ([chunk(content="Hi"), event({"error": TOLD})], SSE),
    "named": ([chunk(content="Hi"), b"event: error\n" + event(ERROR)], SSE),
    "anthropic": (
        [claude.start(), *claude.block(0, claude.text("Hi")), claude.event("error", error=ERROR)],
        SSE,
    ),
    "responses": (
        [
            event({"type": "response.output_text.delta", "delta": "Hi"}),
            event({"type": "response.failed", "response": {"error": ERROR, "id": "r"}}),
        ],
        SSE,
    ),
    "responses' error": (
        [
            event({"type": "response.output_text.delta", "delta": "Hi"}),
            event({"type": "error", **ERROR, "type_": CANARY}),
        ],
        SSE,
    ),
    "ollama": ([chat_line(content="Hi"), line({"error": TOLD})], NDJSON),
    "ollama, at once": ([line({"error": TOLD})], NDJSON),
}


@pytest.mark.parametrize("name", STREAMS)
def test_an_error_in_a_stream_tells_nobody_our_credential(
    served: Gateway, provider: Upstream, name: str
) -> None:
    pieces, content_type = STREAMS[name]
    provider.script = streaming(pieces, pause_s=0.0, content_type=content_type, **dict(HEADERS))
    ask_all(served, ADAPTERS, whole=False)
    check_what_is_kept(served)


def responses_answer() -> dict[str, Any]:
    said = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hi"}],
    }
    return {"id": "r", "object": "response", "status": "completed", "output": [said], **ECHO}


@pytest.mark.parametrize(
    "body",
    [
        {**completion("Hi"), **ECHO},
        {**claude.message(claude.text("Hi")), **ECHO},
        {**json.loads(last_line(content="Hi")), **ECHO},
        responses_answer(),
        {"input_tokens": 9, **ECHO},
    ],
    ids=["openai", "anthropic", "ollama", "responses", "count"],
)
def test_a_good_answer_tells_nobody_our_credential(
    served: Gateway, provider: Upstream, body: Any
) -> None:
    provider.script = whole(200, body, **HEADERS)
    ask_all(served)


@pytest.mark.parametrize(
    ("kind", "pieces", "content_type"),
    [
        (
            "openai-compatible",
            [
                event({**json.loads(chunk(content="Hi")[6:]), **ECHO}),
                event({**json.loads(chunk("stop")[6:]), "x": CANARY}) + DONE,
            ],
            SSE,
        ),
        (
            "anthropic",
            [
                claude.event("message_start", message={**claude.message(stop=None), **ECHO}),
                *claude.block(0, claude.text("Hi")),
                claude.event("message_delta", delta={"stop_reason": "end_turn"}, **ECHO),
                claude.event("message_stop", **ECHO),
            ],
            SSE,
        ),
        (
            "ollama",
            [chat_line(content="Hi", **ECHO), chat_line(done=True, done_reason="stop", **ECHO)],
            NDJSON,
        ),
        (
            "native",
            [
                event({"type": "response.output_text.delta", "delta": "Hi", **ECHO}),
                event({"type": "response.completed", "response": responses_answer()}),
            ],
            SSE,
        ),
    ],
    ids=["openai", "anthropic", "ollama", "responses"],
)
def test_a_good_stream_tells_nobody_our_credential(
    served: Gateway, provider: Upstream, kind: str, pieces: list[bytes], content_type: str
) -> None:
    provider.script = streaming(pieces, content_type=content_type)
    ask_all(served, (kind,), whole=False)
    whole_stream = b"".join(pieces)
    cut = whole_stream.find(CANARY.encode()) + 9
    parts = [whole_stream[:cut], whole_stream[cut:]]
    provider.script = streaming(parts, pause_s=0.01, content_type=content_type)
    ask_all(served, (kind,), whole=False)


async def listing_by_the_credential(asked: Asked, peer: Peer) -> None:
    entry = {"id": CANARY, "name": CANARY, "model": CANARY, "owned_by": CANARY}
    good = {"id": "m", "name": "m", "model": "m", "owned_by": CANARY}
    told = {"object": "list", "data": [entry, good], "models": [entry, good]}
    peer.answer(200, json.dumps(told).encode())


def test_a_listing_tells_nobody_our_credential(served: Gateway, provider: Upstream) -> None:
    provider.script = whole(200, completion(TOLD))
    provider.listing = listing_by_the_credential
    ask_admins(served)
    check_what_is_kept(served)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "audio/mpeg"])
def test_a_relayed_answer_tells_nobody_our_credential(
    served: Gateway, provider: Upstream, content_type: str
) -> None:
    body = json.dumps({"id": "x", **ECHO}).encode() + b" " * 50
    for packets in ([body], [bytes([each]) for each in body], [b"x" * 2_000_000 + body, body]):
        provider.script = streaming(packets, content_type=content_type)
        for path, fields in RELAYS.items():
            request = {"model": "openai-compatible/m", **fields}
            answered = served.post(path, request)
            check(answered, asked=path)
            assert answered.status == 200
            assert answered.body == b"".join(packets).replace(CANARY.encode(), b"[redacted]")


def test_an_error_in_place_of_a_relayed_answer_is_one(served: Gateway, provider: Upstream) -> None:
    error = {"message": "Try later.", "type": "rate_limit_error"}
    provider.script = whole(200, {"error": error})
    for path, fields in RELAYS.items():
        answered = served.post(path, {"model": "openai-compatible/m", **fields})
        assert answered.status == 429
        assert answered.json()["error"]["message"] == "Try later."


def test_a_file_may_be_an_error(served: Gateway, provider: Upstream) -> None:
    provider.script = whole(200, {"error": {"message": "Mine."}})
    headers = {"authorization": f"Bearer {KEY}", "x-gateway-provider": "openai-compatible"}
    answered = served.call("GET", "/v1/files/file-1/content", headers=headers)
    assert (answered.status, answered.json()) == (200, {"error": {"message": "Mine."}})
