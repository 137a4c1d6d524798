"""How many requests may be on their way to a local model, with no model at all."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from chat.errors import UpstreamFailed, UpstreamRateLimited
from providers.runner.admission import admitted, under_way
from providers.runner.catalogue import LocalModel

pytestmark = pytest.mark.once

HOLD = """
import sys
from pathlib import Path
from contextlib import ExitStack
from providers.runner.admission import admitted
from tests.providers.test_runner_admission import model
with ExitStack() as stack:
    for _ in range(int(sys.argv[2])):
        stack.enter_context(admitted(model(), data_dir=Path(sys.argv[1])))
    print("held", flush=True)
    sys.stdin.read()
"""


def model(*, slots: int = 1, queue: int = 2) -> LocalModel:
    return LocalModel(
        id="scrap",
        path=Path("weights.gguf"),
        sha256="",
        context=512,
        slots=slots,
        default_max_tokens=16,
        memory_bytes=1,
        queue=queue,
    )


def free_places(data_dir: Path) -> int:
    with ExitStack() as stack:
        for taken in range(100):
            try:
                stack.enter_context(admitted(model(), data_dir=data_dir))
            except UpstreamRateLimited:
                return taken
    raise AssertionError("there is no bound")


def another_process(data_dir: Path, places: int) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data_dir), str(places)],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


def test_a_place_is_free_again_when_its_request_ends(tmp_path: Path) -> None:
    assert [free_places(tmp_path) for _ in range(2)] == [3, 3]


def test_who_finds_no_place_is_told_to_come_again(tmp_path: Path) -> None:
    one = model(queue=0)
    with admitted(one, data_dir=tmp_path), pytest.raises(UpstreamRateLimited) as told:
        admitted(one, data_dir=tmp_path).__enter__()
    assert (told.value.code, told.value.retry_after) == ("queue_full", "1")


def test_the_places_are_those_of_all_workers(tmp_path: Path) -> None:
    child = another_process(tmp_path, 2)
    try:
        assert free_places(tmp_path) == 1
    finally:
        child.communicate()
    assert free_places(tmp_path) == 3


def test_a_killed_workers_places_are_free(tmp_path: Path) -> None:
    child = another_process(tmp_path, 3)
    assert free_places(tmp_path) == 0
    child.kill()
    child.communicate()
    assert free_places(tmp_path) == 3


def test_a_data_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "runner").write_text("in the way")
    with pytest.raises(UpstreamFailed, match="cannot be started"):
        admitted(model(), data_dir=tmp_path).__enter__()


def test_a_full_queue_is_no_failure_of_the_model(tmp_path: Path) -> None:
    """Its circuit breaker would have it rest, and refuse those there is a place for."""
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admitted(model(), data_dir=tmp_path))
        with pytest.raises(UpstreamRateLimited) as refused, admitted(model(), data_dir=tmp_path):
            pass
    assert not refused.value.is_fault


def test_who_is_answered_or_waits_is_counted(tmp_path: Path) -> None:
    one = model()
    with admitted(one, data_dir=tmp_path), admitted(one, data_dir=tmp_path):
        assert under_way[one.name] == 2
    assert under_way[one.name] == 0
