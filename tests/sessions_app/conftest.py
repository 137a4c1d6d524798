"""A gateway over scripted upstreams on three wires, which keeps sessions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import spare_database
from tests.gateway import KEY, Answered, Gateway, configuration
from tests.upstream import Asked, Peer, Upstream, completion, scripted_upstream, silence

OTHER = "gw-test-other-0123456789abcdef0123456789abc"
OPENAI, CLAUDE, OLLAMA = "scripted/gpt-4o-mini", "claude/claude-sonnet-4-5", "ollama/llama3.2"
Ask = Callable[..., Answered]


@pytest.fixture(scope="package")
def provider_of_sessions() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="package")
def keeper(
    provider_of_sessions: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Two workers."""
    folder = tmp_path_factory.mktemp("sessions")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url, workers=2)
        gateway.environment["ABSTRACTCORE_OUTBOUND_ALLOW"] = "127.0.0.0/8"
        gateway.apply(configured(provider_of_sessions))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def configured(model: Upstream) -> dict[str, Any]:
    found = configuration(model.base_url)
    origin = model.base_url.removesuffix("/v1")
    found["providers"] += [
        {"name": "claude", "kind": "anthropic", "base_url": origin, "api_key": "sk-ant-x"},
        {"name": "ollama", "kind": "ollama", "base_url": origin},
    ]
    found["deployments"] = [
        {"provider": "scripted", "model": "tiny", "context_window": 600},
        {"provider": "claude", "model": "small", "context_window": 600},
        {"provider": "scripted", "model": "gpt-4o-mini", "price": {"input": 1, "output": 2}},
    ]
    anything = {"type": "object"}
    found["tools"] = [
        {"name": "ask_user", "kind": "client", "parameters": anything},
        {"name": "clock", "kind": "http", "url": f"{origin}/clock", "parameters": anything},
    ]
    found["keys"].append({"name": "other", "secret": OTHER})
    return found


@pytest.fixture
def upstream(provider_of_sessions: Upstream) -> Upstream:
    provider_of_sessions.script, provider_of_sessions.asked = echo, []
    return provider_of_sessions


async def echo(asked: Asked, peer: Peer) -> None:
    """Says how many messages it was told, on the wire it is asked on."""
    body = asked.json()
    if "messages" not in body:
        peer.answer(200, b'{"capabilities": ["completion", "tools"], "model_info": {}}')
        return
    text = f"I was told {len(body['messages'])}."
    if asked.path == "/v1/messages":
        said: Any = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 4},
        }
    elif asked.path == "/api/chat":
        said = {
            "model": "llama3.2",
            "created_at": "2026-11-25T00:00:00Z",
            "done": True,
            "message": {"role": "assistant", "content": text},
            "done_reason": "stop",
            "prompt_eval_count": 9,
            "eval_count": 4,
        }
    else:
        said = completion(text)
    peer.answer(200, json.dumps(said).encode())


@pytest.fixture
def ask(keeper: Gateway, upstream: Upstream) -> Ask:
    """A request to `/v1/sessions…`, with JSON where there is any."""

    def call(method: str, path: str = "", body: Any = None, *, key: str = KEY) -> Answered:
        headers = {"authorization": f"Bearer {key}"}
        raw = None
        if body is not None:
            headers["content-type"] = "application/json"
            raw = json.dumps(body).encode()
        return keeper.call(method, f"/v1/sessions{path}", raw, headers)

    return call


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}
