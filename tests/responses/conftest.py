"""A gateway with one upstream behind two providers: `scripted` speaks chat completions only,
`native` the Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.conftest import spare_database
from tests.gateway import KEY, Gateway, configuration
from tests.responses.calls import LIMITED_KEY, OTHER_KEY
from tests.upstream import Upstream, scripted_upstream, silence


def responses_configuration(base_url: str) -> dict[str, Any]:
    settings = configuration(base_url)
    (provider,) = settings["providers"]
    settings["providers"] += [
        {**provider, "name": "native", "options": {"responses": True}},
        {**provider, "name": "native2", "options": {"responses": True}},
        {"name": "demo", "kind": "fake", "options": {"models": {"echo": {}}}},
        {**provider, "name": "claude", "kind": "anthropic", "base_url": base_url[: -len("/v1")]},
    ]
    settings["routes"] += [
        {
            "name": name,
            "strategy": "fallback",
            "targets": [{"provider": each, "model": model} for each in providers],
        }
        for name, model, providers in (
            ("mixed", "gpt-4o-mini", ("scripted", "native")),
            ("twins", "gpt-4o-mini", ("native2", "native")),
            ("lacking", "lacking", ("native2", "native")),
        )
    ]
    settings["keys"] += [
        {"name": "other", "secret": OTHER_KEY, "admin": True},
        {"name": "limited", "secret": LIMITED_KEY, "max_parallel": 1},
    ]
    return settings


@pytest.fixture(scope="package")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="package")
def served(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("responses")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(responses_configuration(provider.base_url))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def upstream(provider: Upstream) -> Upstream:
    """The upstream of `served`, which has been asked nothing yet."""
    provider.script = silence
    provider.asked = []
    return provider


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client
