"""The embedded model for real: weights, llama.cpp's server, the runner and the adapter."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from chat.errors import GatewayError, UpstreamRejected
from chat.parsing import parse_chat_request
from chat.types import Batch
from providers.adapters.base import Endpoint
from providers.adapters.huggingface import HuggingFaceAdapter
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.runner.catalogue import EMBEDDED_MODEL, LocalModel, local_models
from providers.runner.state import RunnerFiles, RunnerState
from providers.runner.supervisor import RunnerEndpoint, ensure_running, release_all
from tests.conftest import require_or_skip

pytestmark = pytest.mark.once

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
LONG = [{"role": "user", "content": "Write a very long story about rivers."}]
PATIENCE_S = 30

HOLDER = """
import asyncio, sys
from pathlib import Path
from providers.runner.catalogue import local_models
from providers.runner.supervisor import ensure_running
[model] = local_models()
place = asyncio.run(ensure_running(model, data_dir=Path(sys.argv[1])))
print(place.base_url, flush=True)
sys.stdin.read()
"""
"""A worker of its own: says where it found the model, then uses it until its input ends."""


@pytest.fixture(scope="module")
def model() -> LocalModel:
    if find_spec("xllamacpp") is None:
        require_or_skip("the extra [local] is not installed")
    models = local_models()
    if not models:
        require_or_skip("the extra [local] is not installed")
    return models[0]


@pytest.fixture(scope="module")
def data_dir(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of one child that all tests share but those that kill it."""
    yield tmp_path_factory.mktemp("shared")
    release_all()


@pytest.fixture
async def ask(data_dir: Path) -> AsyncIterator[Callable[..., Any]]:
    """An adapter with a client of this test's loop, by data directory."""
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    yield lambda directory=data_dir: HuggingFaceAdapter(
        Endpoint(
            base_url="", api_key="", model=EMBEDDED_MODEL, options={"data_dir": str(directory)}
        ),
        client,
    )
    await client.aclose()


async def test_it_knows_the_capital_of_france(ask: Callable[..., HuggingFaceAdapter]) -> None:
    reply = await ask().complete(chat(CAPITAL, temperature=0))
    assert "Paris" in text_of(reply.body)
    assert reply.finish_reason == "stop"
    assert reply.usage is not None and reply.usage.completion_tokens


async def test_it_streams_the_capital_of_france(ask: Callable[..., HuggingFaceAdapter]) -> None:
    batches = [each async for each in ask().stream(chat(CAPITAL, temperature=0, stream=True))]
    assert "Paris" in "".join(each.delta.content or "" for each in choices_of(batches))
    finishes = [choice.finish_reason for choice in choices_of(batches) if choice.finish_reason]
    assert finishes == ["stop"]
    usages = [chunk.usage for batch in batches for chunk in batch.chunks if chunk.usage]
    assert usages and usages[-1].completion_tokens


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_a_callers_own_instructions_replace_the_added_ones(
    ask: Callable[..., HuggingFaceAdapter], role: str
) -> None:
    own = [{"role": role, "content": "Be kind."}, *CAPITAL]
    bare = await ask().complete(chat(CAPITAL, temperature=0, max_tokens=1))
    told = await ask().complete(chat(own, temperature=0, max_tokens=1))
    assert bare.usage is not None and told.usage is not None
    # "You are a helpful assistant." has three tokens more than "Be kind."
    assert bare.usage.prompt_tokens - told.usage.prompt_tokens == 3


async def test_a_schema_is_kept_to_the_letter(ask: Callable[..., HuggingFaceAdapter]) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "strict": True, "schema": schema}}
    reply = await ask().complete(
        chat([{"role": "user", "content": "Name a city."}], temperature=0, response_format=wanted)
    )
    answer = json.loads(text_of(reply.body))
    assert answer.keys() == {"city", "people"} and isinstance(answer["people"], int)


async def test_a_prompt_longer_than_its_context_is_the_callers_mistake(
    ask: Callable[..., HuggingFaceAdapter],
) -> None:
    with pytest.raises(UpstreamRejected, match="context"):
        await ask().complete(chat([{"role": "user", "content": "hello " * 5000}]))


async def test_it_is_listed_with_its_context_without_being_started(
    ask: Callable[..., HuggingFaceAdapter], tmp_path: Path
) -> None:
    [listed] = await ask(tmp_path).list_models()
    assert (listed.id, listed.context_window) == (EMBEDDED_MODEL, 4096)
    assert os.listdir(tmp_path) == []


async def test_nobody_gets_an_answer_without_the_key(model: LocalModel, data_dir: Path) -> None:
    place = await ensure_running(model, data_dir=data_dir)
    for path in ("/v1/chat/completions", "/v1/models", "/props", "/slots"):
        assert status_of(place, path, key="guess") == 401, path


async def test_a_prompt_is_never_in_the_runners_log(
    ask: Callable[..., HuggingFaceAdapter], data_dir: Path
) -> None:
    secret = [{"role": "user", "content": "xyzzyplugh " * 3}]
    await ask().complete(chat(secret, max_tokens=4))
    with pytest.raises(UpstreamRejected):
        await ask().complete(chat([{"role": "user", "content": "xyzzyplugh " * 3000}]))
    assert "xyzzy" not in log_of(data_dir)


async def test_neither_the_key_nor_our_secrets_reach_command_line_or_environment(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_proc()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ours")
    place = await ensure_running(model, data_dir=tmp_path)
    process = Path(f"/proc/{state_of(tmp_path).pid}")
    shown = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    assert place.api_key.encode() not in shown
    assert b"sk-ours" not in shown


async def test_many_callers_at_once_share_one_start(model: LocalModel, tmp_path: Path) -> None:
    places = await asyncio.gather(*(ensure_running(model, data_dir=tmp_path) for _ in range(20)))
    assert len(set(places)) == 1
    assert log_of(tmp_path).count("serving") == 1


async def test_a_caller_who_leaves_does_not_stop_the_start_for_others(
    model: LocalModel, tmp_path: Path
) -> None:
    leaving = asyncio.create_task(ensure_running(model, data_dir=tmp_path))
    staying = asyncio.create_task(ensure_running(model, data_dir=tmp_path))
    await asyncio.sleep(0.05)
    leaving.cancel()
    assert (await staying).base_url.startswith("http://127.0.0.1:")
    assert leaving.cancelled()


async def test_workers_that_start_together_share_one_child(
    model: LocalModel, tmp_path: Path
) -> None:
    workers = [start_worker(tmp_path) for _ in range(3)]
    try:
        places = [await asyncio.to_thread(said_by, worker) for worker in workers]
    finally:
        for worker in workers:
            end(worker)
    assert len(set(places)) == 1
    assert log_of(tmp_path).count("serving") == 1


async def test_the_child_outlives_the_worker_that_started_it_while_another_uses_it(
    model: LocalModel, tmp_path: Path
) -> None:
    worker = start_worker(tmp_path)
    place = await asyncio.to_thread(said_by, worker)
    assert (await ensure_running(model, data_dir=tmp_path)).base_url == place
    end(worker, signal.SIGKILL)
    await asyncio.sleep(1)
    assert RunnerFiles(tmp_path, model.id).is_locked()
    assert (await ensure_running(model, data_dir=tmp_path)).base_url == place


async def test_the_child_ends_when_every_worker_was_killed(
    model: LocalModel, tmp_path: Path
) -> None:
    workers = [start_worker(tmp_path) for _ in range(2)]
    for worker in workers:
        await asyncio.to_thread(said_by, worker)
    for worker in workers:
        end(worker, signal.SIGKILL)
    files = RunnerFiles(tmp_path, model.id)
    await until(lambda: not files.is_locked())
    assert files.read_state() is None


async def test_a_child_that_just_decided_to_end_is_followed_by_a_new_one(
    model: LocalModel, tmp_path: Path
) -> None:
    before = await ensure_running(model, data_dir=tmp_path)
    release_all()
    files = RunnerFiles(tmp_path, model.id)
    await until(lambda: not files.is_locked())
    after = await ensure_running(model, data_dir=tmp_path)
    assert before.api_key != after.api_key


async def test_sigterm_ends_the_child_and_is_no_crash(model: LocalModel, tmp_path: Path) -> None:
    await ensure_running(model, data_dir=tmp_path)
    files = RunnerFiles(tmp_path, model.id)
    os.kill(state_of(tmp_path).pid, signal.SIGTERM)
    await until(lambda: not files.is_locked())
    await ensure_running(model, data_dir=tmp_path)
    assert state_of(tmp_path).failures == 0


async def test_ctrl_c_does_not_end_the_child(model: LocalModel, tmp_path: Path) -> None:
    before = await ensure_running(model, data_dir=tmp_path)
    os.kill(state_of(tmp_path).pid, signal.SIGINT)
    await asyncio.sleep(0.5)
    assert await ensure_running(model, data_dir=tmp_path) == before


async def test_the_next_request_after_a_crash_is_answered(
    ask: Callable[..., HuggingFaceAdapter], model: LocalModel, tmp_path: Path
) -> None:
    adapter = ask(tmp_path)
    await adapter.complete(chat(CAPITAL, temperature=0))
    os.kill(state_of(tmp_path).pid, signal.SIGKILL)
    reply = await adapter.complete(chat(CAPITAL, temperature=0))
    assert "Paris" in text_of(reply.body)
    assert state_of(tmp_path).failures == 1


async def test_a_crash_before_the_answer_began_costs_nobody_an_answer(
    ask: Callable[..., HuggingFaceAdapter], model: LocalModel, tmp_path: Path
) -> None:
    await ensure_running(model, data_dir=tmp_path)
    waiting = asyncio.create_task(
        ask(tmp_path).complete(chat(LONG, max_tokens=60, ignore_eos=True, temperature=0))
    )
    await asyncio.sleep(0.2)
    os.kill(state_of(tmp_path).pid, signal.SIGKILL)
    assert (await waiting).finish_reason == "length"


async def test_a_crash_in_the_middle_of_a_stream_is_an_error_of_that_stream(
    ask: Callable[..., HuggingFaceAdapter], model: LocalModel, tmp_path: Path
) -> None:
    await ensure_running(model, data_dir=tmp_path)
    stream = ask(tmp_path).stream(chat(LONG, max_tokens=600, ignore_eos=True, stream=True))
    async with aclosing(stream):
        await anext(stream)
        os.kill(state_of(tmp_path).pid, signal.SIGKILL)
        with pytest.raises(GatewayError):
            async for _batch in stream:
                pass


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_caller_who_hangs_up_stops_the_generation(
    ask: Callable[..., HuggingFaceAdapter], model: LocalModel, tmp_path: Path, streamed: bool
) -> None:
    require_proc()
    await ensure_running(model, data_dir=tmp_path)
    request = chat(LONG, max_tokens=3000, ignore_eos=True, stream=streamed)
    task = asyncio.create_task(consume(ask(tmp_path), request))
    pid = state_of(tmp_path).pid
    idle = cpu_ticks(pid)
    await until(lambda: cpu_ticks(pid) > idle + 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # A prompt under way is computed to its end; the 3,000 tokens, 40 s of work, are not.
    await until(lambda: ticks_in_half_a_second(pid) < 10)


async def test_a_cleared_data_directory_gets_a_new_child(model: LocalModel, tmp_path: Path) -> None:
    before = await ensure_running(model, data_dir=tmp_path)
    (tmp_path / "runner").rename(tmp_path / "gone")
    after = await ensure_running(model, data_dir=tmp_path)
    assert after != before
    await asyncio.sleep(1)
    assert await ensure_running(model, data_dir=tmp_path) == after


def chat(messages: list[dict[str, str]], **fields: Any) -> Any:
    return parse_chat_request(json.dumps({"model": "m", "messages": messages, **fields}).encode())


async def consume(adapter: HuggingFaceAdapter, request: Any) -> None:
    if not request.stream:
        await adapter.complete(request)
        return
    async with aclosing(adapter.stream(request)) as stream:
        async for _batch in stream:
            pass


def text_of(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def choices_of(batches: list[Batch]) -> list[Any]:
    return [choice for batch in batches for chunk in batch.chunks for choice in chunk.choices]


def status_of(place: RunnerEndpoint, path: str, *, key: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(place.base_url).netloc, timeout=PATIENCE_S)
    with closing(connection):
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().status


def state_of(data_dir: Path) -> RunnerState:
    read = RunnerFiles(data_dir, EMBEDDED_MODEL).read_state()
    assert read is not None
    return read.state


def log_of(data_dir: Path) -> str:
    return RunnerFiles(data_dir, EMBEDDED_MODEL).path("log").read_text()


def require_proc() -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("this system does not show what another process is and does")


def ticks_in_half_a_second(pid: int) -> int:
    before = cpu_ticks(pid)
    time.sleep(0.5)
    return cpu_ticks(pid) - before


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what another process does sets no event here
            await asyncio.sleep(0.02)


def start_worker(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said_by(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def end(worker: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> None:
    worker.send_signal(number)
    with worker:  # waits, and closes the pipes
        pass


@pytest.fixture(autouse=True)
def _own_children_end(tmp_path: Path, model: LocalModel) -> Iterator[None]:
    """A child on a test's own directory would live until the last test."""
    yield
    for place in (tmp_path, tmp_path / "gone"):
        read = RunnerFiles(place, model.id).read_state() if place.exists() else None
        if read is not None and RunnerFiles(place, model.id).is_locked():
            os.kill(read.state.pid, signal.SIGTERM)
