"""The workers' side of a local model: starts its child when there is none, and finds it."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import msgspec

from chat.errors import UpstreamError, UpstreamFailed, UpstreamOverloaded
from providers.runner.catalogue import LocalModel
from providers.runner.probe import answers
from providers.runner.state import RunnerFiles, RunnerState, StartOrder, take

logger = logging.getLogger("providers.runner")

START_WAIT_S = 60.0
"""How long a caller waits for a child that loads its model; the child goes on loading after."""

_LOOK_EVERY_S = 0.05
_STEADY_AFTER_S = 30.0
"""A child that lived this long before it crashed may be started again at once."""
_MAX_BACKOFF_S = 30.0
_PASSED_ON = {
    *("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"),
    *("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
}
"""Of our environment; the rest, secrets among it, is none of the native code's business."""


@dataclass(frozen=True, slots=True)
class RunnerEndpoint:
    """Where a local model is served in the OpenAI wire."""

    base_url: str
    api_key: str = field(repr=False)


async def ensure_running(model: LocalModel, *, data_dir: Path) -> RunnerEndpoint:
    """Where `model` is served, after starting it where it is not.

    Costs three file system calls while the child runs. Callers who wait share one start, across
    processes too, and one who goes away stops nothing. Raises UpstreamFailed (not retryable: it
    takes an operator) and UpstreamOverloaded (retryable: loading, no memory, or crashing).
    """
    return await _runner(model, data_dir).endpoint()


def forget(model: LocalModel, *, data_dir: Path) -> None:
    """Has the next `ensure_running` look where the model is served: its address did not answer."""
    _runner(model, data_dir).forget()


def release_all() -> None:
    """Gives up this process's use of every local model: a child that nobody else uses ends within
    two seconds. The end of the process does the same."""
    while _runners:
        _runners.popitem()[1].release()


class _Runner:
    """One model as this process sees it."""

    def __init__(self, model: LocalModel, data_dir: Path) -> None:
        self._model = model
        self._data_dir = data_dir
        self._files = RunnerFiles(data_dir, model.id)
        self._found: tuple[RunnerEndpoint, tuple[int, int]] | None = None
        self._search: asyncio.Task[RunnerEndpoint] | None = None
        self._lease: int | None = None
        self._one_thread = threading.Lock()

    async def endpoint(self) -> RunnerEndpoint:
        if self._found is not None:
            endpoint, version = self._found
            if self._files.state_version() == version and self._files.is_locked():
                return endpoint
        return await asyncio.shield(self._shared_search())

    def forget(self) -> None:
        self._found = None

    def release(self) -> None:
        with self._one_thread:
            self._found = None
            if self._lease is not None:
                os.close(self._lease)
                self._lease = None

    def _shared_search(self) -> asyncio.Task[RunnerEndpoint]:
        search = self._search
        loop = asyncio.get_running_loop()
        if search is None or search.done() or search.get_loop() is not loop:
            search = loop.create_task(self._find())
            search.add_done_callback(_see_outcome)
            self._search = search
        return search

    async def _find(self) -> RunnerEndpoint:
        deadline = time.monotonic() + START_WAIT_S
        while time.monotonic() < deadline:
            try:
                endpoint = await asyncio.to_thread(self._look)
            except OSError as error:
                raise UpstreamFailed(
                    f"The runner of {self._model.name} cannot be started: {error.strerror}."
                ) from error
            if endpoint is not None:
                return endpoint
            await asyncio.sleep(_LOOK_EVERY_S)
        loading = UpstreamOverloaded(
            f"The local model {self._model.name} is still being loaded.",
            retryable=True,
            retry_after="5",
        )
        loading.is_fault = False
        raise loading

    def _look(self) -> RunnerEndpoint | None:
        """One step: starts the child where nobody has; None while there is nothing to use yet."""
        with self._one_thread:
            self._files.make_directory()
            if not self._hold_lease():
                return None  # the child has just decided to end
            lock = self._files.take_lock()
            if lock is None:
                return self._read_endpoint()
            try:
                self._start(lock)
            finally:
                os.close(lock)  # the child holds its own copy
            return None

    def _hold_lease(self) -> bool:
        if self._lease is not None and self._files.is_same_lease(self._lease):
            return True
        lease = self._files.open_lease()
        if not take(lease, fcntl.LOCK_SH):
            os.close(lease)
            return False
        if self._lease is not None:
            os.close(self._lease)
        self._lease = lease
        return True

    def _read_endpoint(self) -> RunnerEndpoint | None:
        read = self._files.read_state()
        if read is None or read.state.status != "ready":
            return None
        if not answers(read.state.port, key=read.state.key):
            return None  # what a dead child left, which its successor is about to replace
        endpoint = RunnerEndpoint(f"http://127.0.0.1:{read.state.port}/v1", read.state.key)
        self._found = endpoint, read.version
        return endpoint

    def _start(self, lock: int) -> None:
        _require_installation(self._model)
        failures = self._failures_so_far()
        self._files.write_state(
            RunnerState(status="starting", pid=os.getpid(), since=time.time(), failures=failures)
        )
        child = _spawn(
            StartOrder(model=self._model, data_dir=self._data_dir, failures=failures),
            self._files,
            lock=lock,
        )
        logger.info("local model %s started (pid %d)", self._model.name, child.pid)
        # Without somebody who waits, a dead child stays a zombie for as long as this worker lives.
        threading.Thread(target=child.wait, name=f"reap-{child.pid}", daemon=True).start()

    def _failures_so_far(self) -> int:
        """Failures in a row before the start that may happen now. Raises the failure itself while
        the model rests from it."""
        read = self._files.read_state()
        if read is None:
            return 0
        last = read.state
        if last.status != "failed":
            last = self._note_crash(last)
        rest = last.since + _backoff(last) - time.time()
        if rest > 0:
            raise _failure(self._model, last, rest=rest)
        return last.failures

    def _note_crash(self, last: RunnerState) -> RunnerState:
        now = time.time()
        steady = last.status == "ready" and now - last.since > _STEADY_AFTER_S
        crashed = RunnerState(
            status="failed",
            pid=last.pid,
            since=now,
            failures=1 if steady else last.failures + 1,
        )
        self._files.write_state(crashed)
        logger.error(
            "local model %s ended unexpectedly (failure %d in a row); its log may say why",
            self._model.name,
            crashed.failures,
        )
        return crashed


_runners: dict[tuple[LocalModel, Path], _Runner] = {}


def _runner(model: LocalModel, data_dir: Path) -> _Runner:
    key = (model, data_dir)
    runner = _runners.get(key)
    return runner if runner is not None else _runners.setdefault(key, _Runner(model, data_dir))


def _see_outcome(search: asyncio.Task[RunnerEndpoint]) -> None:
    """Everybody who waited may have left; asyncio complains of an error that nobody saw."""
    if not search.cancelled():
        search.exception()


_NEEDED = {
    "llama": ("local", ("xllamacpp",)),
    "transformers": ("transformers", ("transformers", "torch", "llguidance")),
    "mlx": ("mlx", ("mlx", "mlx_lm", "llguidance")),
}
"""By engine: the extra that installs it, and what it cannot do without."""


def _require_installation(model: LocalModel) -> None:
    extra, packages = _NEEDED[model.engine]
    for package in packages:
        if find_spec(package) is None:
            raise UpstreamFailed(
                f"The package {package} is not installed: install the extra [{extra}] "
                f"(pip install 'abstractcore-server[{extra}]')."
            )
    if model.engine == "llama" and not model.path.is_file():
        raise UpstreamFailed(f"The weights file of {model.name} ({model.path.name}) is missing.")
    if model.engine != "llama" and not model.path.is_dir():
        raise UpstreamFailed(f"The folder of {model.name} ({model.path.name}) is missing.")


def _backoff(last: RunnerState) -> float:
    """Seconds to rest: a first crash none, as the next start will most likely work; then 1, 2, 4 …
    A start that failed with a reason rests from the first time."""
    doublings = last.failures - (1 if last.code else 2)
    return 0.0 if doublings < 0 else min(2.0 ** min(doublings, 10), _MAX_BACKOFF_S)


def _failure(model: LocalModel, last: RunnerState, *, rest: float) -> UpstreamError:
    retry_after = str(math.ceil(rest))
    if last.code == "no_memory":
        return UpstreamOverloaded(last.message, retryable=True, retry_after=retry_after)
    if last.code is not None:
        return UpstreamFailed(last.message)
    return UpstreamOverloaded(
        f"The local model {model.name} ended unexpectedly {last.failures} times in a row; the next "
        f"start is in {retry_after} s.",
        retryable=True,
        retry_after=retry_after,
    )


def _spawn(order: StartOrder, files: RunnerFiles, *, lock: int) -> subprocess.Popen[bytes]:
    """The child in a session of its own, with the lock and nothing else of ours. The order fits
    into the pipe, so that it can be written before anybody reads."""
    log = files.open_log()
    reader, writer = os.pipe()
    try:
        os.write(writer, msgspec.json.encode(order, enc_hook=str))
        os.close(writer)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "providers.runner"],
            stdin=reader,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(),
            pass_fds=[lock],
            start_new_session=True,
        )
    finally:
        os.close(reader)
        os.close(log)


def _environment() -> dict[str, str]:
    """`-P` keeps the working directory off the child's path, so this package's own home is named:
    in a checkout it is on no other."""
    home = str(Path(__file__).resolve().parents[2])
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON}
    path = [home, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path)}
