"""The child: checks and loads one model, serves it, and ends when no worker uses it any more, or
when nobody has asked it for long: the next request starts another.

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
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

import msgspec

from providers.runner import llama
from providers.runner.probe import answers
from providers.runner.state import RunnerFiles, RunnerState, StartOrder, bound_log, take
from providers.runner.weights import StartFailedError, require_memory, verify_weights

_LOOK_EVERY_S = 1


class _Served(NamedTuple):
    port: int
    key: str
    idle_for: Callable[[], float]
    """Seconds since it was last used; it ends when they are too many."""
    server: object = None
    """To be kept alive."""


def main() -> NoReturn:
    order = msgspec.json.decode(
        sys.stdin.buffer.read(), type=StartOrder, dec_hook=lambda _type, text: Path(text)
    )
    files = RunnerFiles(order.data_dir, order.model.id)
    _reset_signals()
    lease = files.open_lease()
    started_at = time.time()
    try:
        served = _serve(order, files)
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
        port=served.port,
        key=served.key,
    )
    files.write_state(ready)
    _say(f"serving {order.model.name} after {time.time() - started_at:.1f} s")
    _keep(served, order, files=files, lease=lease)


def _reset_signals() -> None:
    """Ctrl-C goes to every process of the terminal; here the lease decides. SIGTERM ends."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(order: StartOrder, files: RunnerFiles) -> _Served:
    model = order.model
    try:
        verify_weights(model, files)
        require_memory(model)
        served = _open_server(order)
    except MemoryError:
        raise StartFailedError(
            "no_memory", f"There is not enough memory for {model.name}."
        ) from None
    if not answers(served.port, key=served.key):
        raise StartFailedError("not_loadable", f"{model.name} was loaded but does not answer.")
    return served


def _open_server(order: StartOrder) -> _Served:
    key = secrets.token_urlsafe(32)
    if order.model.engine == "llama":
        server, port = llama.open_server(order.model, key=key)
        # It lets its weights go by itself, and a process without them is small.
        return _Served(port, key, lambda: 0.0, server)
    from providers.runner.serving.server import open_server  # needs what that extra installs

    port, idle_for = open_server(order.model, key=key)
    return _Served(port, key, idle_for)


def _keep(served: _Served, order: StartOrder, *, files: RunnerFiles, lease: int) -> NoReturn:
    """Waits until nobody holds the lease, or nobody has asked for long."""
    signal.signal(signal.SIGTERM, lambda signum, frame: _leave(files, "told to end", frame))
    while not take(lease, fcntl.LOCK_EX):
        time.sleep(min(_LOOK_EVERY_S, order.model.idle_s))
        bound_log(sys.stderr.fileno())
        if served.idle_for() > order.model.idle_s:
            _leave(files, "nobody has asked for anything")
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
