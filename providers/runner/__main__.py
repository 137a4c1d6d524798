"""The child: checks and loads one model, serves it, and ends when no worker uses it any more.

Started by `supervisor` only: a StartOrder on standard input, the model's lock already held on an
inherited descriptor, output in the model's log.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec

from providers.runner.llama import open_server
from providers.runner.probe import answers
from providers.runner.state import RunnerFiles, RunnerState, StartOrder, bound_log, take
from providers.runner.weights import StartFailedError, require_memory, verify_weights

_LOOK_EVERY_S = 1


def main() -> NoReturn:
    order = msgspec.json.decode(
        sys.stdin.buffer.read(), type=StartOrder, dec_hook=lambda _type, text: Path(text)
    )
    files = RunnerFiles(order.data_dir, order.model.id)
    _reset_signals()
    lease = files.open_lease()
    started_at = time.time()
    try:
        server, port, key = _serve(order, files)
    except StartFailedError as error:
        files.write_state(
            RunnerState(
                status="failed",
                pid=os.getpid(),
                since=time.time(),
                failures=order.failures + 1,
                code=error.code,
                message=error.message,
            )
        )
        _end(error.message, status=1)
    ready = RunnerState(
        status="ready",
        pid=os.getpid(),
        since=started_at,
        failures=order.failures,
        port=port,
        key=key,
    )
    files.write_state(ready)
    _say(f"serving {order.model.id} after {time.time() - started_at:.1f} s")
    _keep(server, files=files, lease=lease)


def _reset_signals() -> None:
    """Ctrl-C goes to every process of the terminal; here the lease decides. SIGTERM ends."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(order: StartOrder, files: RunnerFiles) -> tuple[Any, int, str]:
    try:
        verify_weights(order.model, files)
        require_memory(order.model)
        key = secrets.token_urlsafe(32)
        server, port = open_server(order.model, key=key)
    except MemoryError:
        raise StartFailedError(
            "no_memory", f"There is not enough memory for {order.model.id}."
        ) from None
    if not answers(port, key=key):
        raise StartFailedError("not_loadable", f"{order.model.id} was loaded but does not answer.")
    return server, port, key


def _keep(server: object, *, files: RunnerFiles, lease: int) -> NoReturn:
    """Waits until nobody holds the lease. `server` is here to be kept alive."""
    signal.signal(signal.SIGTERM, lambda signum, frame: _leave(files, "told to end", frame))
    while not take(lease, fcntl.LOCK_EX):
        time.sleep(_LOOK_EVERY_S)
        bound_log(sys.stderr.fileno())
    _leave(files, "nobody uses the model any more")


def _leave(files: RunnerFiles, reason: str, _frame: FrameType | None = None) -> NoReturn:
    """Both locks are dropped with the process, after the state file is gone."""
    read = files.read_state()
    if read is not None and read.state.pid == os.getpid():
        # Not a successor's: one started in a data directory that was cleared under this child.
        files.remove_state()
    _end(reason, status=0)


def _end(reason: str, *, status: int) -> NoReturn:
    """Ends at once: the native server's destructors would wait for requests under way."""
    _say(f"ends: {reason}")
    os._exit(status)


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), f"[{os.getpid()}]", text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
