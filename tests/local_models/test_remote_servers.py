"""Other people's servers of the same model, as providers with an address: `mlx_lm.server` and
`transformers serve`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conftest import spare_database
from tests.gateway import KEY, Gateway, free_port, wait_until
from tests.local_models.conversion import NAME, converted_model
from tests.local_models.local import require

pytestmark = pytest.mark.once

CAPITAL: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]
COMMANDS = {
    "mlx": ["-m", "mlx_lm", "server", "--model", NAME, "--port"],
    "huggingface": ["-m", "transformers.cli.transformers", "serve", NAME, "--device=cpu", "--port"],
}


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[str]:
    """The server's address. It runs beside the model's folder, whose name is the model's then."""
    port = free_port()
    folder.mkdir()
    (folder / "hub").mkdir()  # mlx_lm.server lists what is cached, and fails without a cache
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *COMMANDS[kind], str(port)],
            cwd=converted_model().parent,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url), seconds=90, why=(folder / "log").read_text)
        yield f"{url}/v1"
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    require("mlx")
    require("transformers")
    folder = tmp_path_factory.mktemp("remote")
    with (
        serving("mlx", folder / "mlx") as mlx,
        serving("huggingface", folder / "transformers") as transformers,
        spare_database(folder) as url,
    ):
        gateway = Gateway(folder, url)
        gateway.apply(
            {
                "providers": [
                    {"name": "far-mlx", "kind": "mlx", "base_url": mlx},
                    {"name": "far-hf", "kind": "huggingface", "base_url": transformers},
                ],
                "keys": [{"name": "ci", "secret": KEY}],
            }
        )
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, timeout=120) as client:
        yield client


@pytest.fixture(params=["far-mlx", "far-hf"])
def model(request: pytest.FixtureRequest) -> str:
    return f"{request.param}/{NAME}"


def test_it_is_listed(client: openai.OpenAI, model: str) -> None:
    provider = model.partition("/")[0]
    # mlx_lm.server lists the folder's whole path, and answers to its name too.
    [listed] = [each.id for each in client.models.list() if each.id.startswith(f"{provider}/")]
    assert listed.endswith(f"/{NAME}")


def test_it_answers_with_its_own_counts(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=CAPITAL, temperature=0, max_tokens=24
    )
    [choice] = answer.choices
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (27, 8)


def test_it_streams_as_the_contract_wants(client: openai.OpenAI, model: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=CAPITAL,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "Paris" in "".join(choice.delta.content or "" for choice in choices)
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8


def test_what_it_cannot_find_is_told_without_its_address(gateway: Gateway, model: str) -> None:
    unknown = model.replace(NAME, "no-such-model")
    answer = gateway.chat({"model": unknown, "messages": CAPITAL, "max_tokens": 1})
    error: dict[str, Any] = json.loads(answer.body)["error"]
    assert answer.status in (400, 404, 502)
    assert error["message"]
    assert "127.0.0.1" not in error["message"]


def test_both_are_in_the_ledger_with_their_tokens(gateway: Gateway, client: openai.OpenAI) -> None:
    ids = [f"ledger-{name}" for name in ("far-mlx", "far-hf")]
    for name, id_ in zip(("far-mlx", "far-hf"), ids, strict=True):
        client.chat.completions.create(
            model=f"{name}/{NAME}",
            messages=CAPITAL,
            max_tokens=2,
            extra_headers={"x-request-id": id_},
        )
    rows = [gateway.usage_row(id_) for id_ in ids]
    assert [(row["tokens_input"], row["tokens_output"]) for row in rows] == [(27, 2)] * 2
    assert not any(row["estimated"] for row in rows)
