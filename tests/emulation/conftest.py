"""A gateway whose provider `plain` serves models that were never told of tools; `able` has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import spare_database
from tests.gateway import Gateway, configuration
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Script,
    Upstream,
    chunk,
    completion,
    scripted_upstream,
    silence,
    usage_chunk,
)

MODELS = {
    "Hermes": "hermes-3-llama-3.1-8b",
    "GLM-4.5": "glm-4.6",
    "Gemma 4": "gemma-4-27b",
    "LFM2": "lfm2-1.2b",
    "Llama 3 (JSON)": "llama-3.1-8b",
    "Llama 3.2 and 4": "llama-3.2-3b",
    "Mistral": "mistral-small",
    "Qwen3-Coder": "qwen3-coder-30b",
    "GLM-5": "glm-5",
    "Gemma 1 to 3, Llama 2": "gemma-3-4b-it",
    "DeepSeek": "deepseek-v3",
    "gpt-oss": "gpt-oss-20b",
}
"""One model of each envelope."""


def emulating(base_url: str) -> dict[str, Any]:
    settings = configuration(base_url, name="plain")
    (plain,) = settings["providers"]
    settings["providers"] = [
        plain,
        {**plain, "name": "able"},
        {**plain, "name": "llama", "kind": "ollama"},
    ]
    lacking = {"tools": False}
    settings["deployments"] = [
        *(
            {"provider": "plain", "model": name, "capabilities": lacking}
            for name in MODELS.values()
        ),
        {"provider": "llama", "model": "qwen3:latest", "capabilities": lacking},
        {
            "provider": "plain",
            "model": "no-system-1",
            "capabilities": {**lacking, "system_role": False},
        },
        {"provider": "able", "model": "unforced", "capabilities": {"tool_choice": False}},
        {"provider": "able", "model": "one-by-one", "capabilities": {"parallel_tools": False}},
    ]
    settings["routes"] = [
        {
            "name": name,
            "strategy": "fallback",
            "targets": [{"provider": provider, "model": model} for provider, model in targets],
        }
        for name, targets in {
            "able-first": (("able", "gpt-4o-mini"), ("plain", MODELS["Hermes"])),
            "plain-first": (("plain", MODELS["Hermes"]), ("able", "gpt-4o-mini")),
        }.items()
    ]
    return settings


@pytest.fixture(scope="package")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="package")
def gateway(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("emulation")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(emulating(provider.base_url))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def upstream(provider: Upstream) -> Upstream:
    """The upstream of `gateway`, which has been asked nothing yet."""
    provider.script = silence
    provider.asked = []
    return provider


def saying(*texts: str, size: int = 7) -> Script:
    """A model that says one text after another, the last for ever, streamed in pieces of `size`
    characters where it is asked to stream."""
    left = list(texts)

    async def script(asked: Asked, peer: Peer) -> None:
        text = left.pop(0) if len(left) > 1 else left[0]
        say(text, asked.json(), peer, size=size)

    return script


def answering(answer: Callable[[dict[str, Any]], str]) -> Script:
    """A model that says what it makes of the request."""

    async def script(asked: Asked, peer: Peer) -> None:
        body = asked.json()
        try:
            text = answer(body)
        except AssertionError as error:  # nobody would hear of it here
            peer.answer(
                400, json.dumps({"error": {"message": f"unlike a model: {error}"}}).encode()
            )
            return
        say(text, body, peer, size=7)

    return script


def say(text: str, body: dict[str, Any], peer: Peer, *, size: int) -> None:
    if not body.get("stream"):
        peer.answer(200, json.dumps(completion(text)).encode())
        return
    peer.begin()
    peer.piece(chunk(role="assistant", content=""))
    for at in range(0, len(text), size):
        peer.piece(chunk(content=text[at : at + size]))
    peer.piece(chunk("stop"))
    if (body.get("stream_options") or {}).get("include_usage"):
        peer.piece(usage_chunk(9, 3))
    peer.piece(DONE)
    peer.end()
