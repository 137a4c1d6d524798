"""Listeners of `/v1/events/stream` that take nothing, under 100 events a second: what they cost a
gateway in memory, and whether one that was away meanwhile is told all it missed when it comes back.

    PYTHONPATH=. .venv/bin/python bench/stalled_listeners.py [--server daphne] [--seconds 120]
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from listeners import chat_on, resident_mib

from tests.events_app.stage import PATH, ids_in_table, listening
from tests.gateway import KEY, Gateway, configuration
from tests.upstream import completion, scripted_upstream, whole

LOOKS = 8


@contextmanager
def stalled(port: int) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        head = f"GET {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n\r\n"
        connection.sendall(head.encode())
        yield connection


@contextmanager
def events_told(port: int) -> Iterator[None]:
    stopping = threading.Event()
    load = threading.Thread(target=chat_on, args=(port, stopping))
    load.start()
    try:
        yield
    finally:
        stopping.set()
        load.join()


def measure(gateway: Gateway, readers: int, seconds: float, away_s: float) -> None:
    with listening(gateway) as listener, events_told(gateway.port):
        time.sleep(5)
        left_behind = listener.ids[-1]
        listener.leave()
        print(f"no listeners      {resident_mib(gateway.pid)} MiB")
        with ExitStack() as stack:
            for _ in range(readers):
                stack.enter_context(stalled(gateway.port))
            for look in range(1, LOOKS + 1):
                time.sleep(seconds / LOOKS)
                after = look * seconds / LOOKS
                print(f"stalled {after:6.0f} s  {resident_mib(gateway.pid)} MiB", flush=True)
                if after >= away_s > 0:
                    come_back(gateway, left_behind)
                    away_s = 0


def come_back(gateway: Gateway, left_behind: int) -> None:
    """Reads behind the id it knows while events go on, until it has what there is now."""
    with listening(gateway, last_event_id=str(left_behind)) as listener:
        last = ids_in_table(gateway)[-1]
        began = time.monotonic()
        while not listener.ids or listener.ids[-1] < last:
            time.sleep(0.05)
        took = time.monotonic() - began
        told = [each for each in listener.ids if each <= last]
    missed = ids_in_table(gateway, f"key = 'ci' AND id > {left_behind} AND id <= {last}")
    verdict = "all of them, once, in order" if told == missed else "NOT what it missed"
    print(f"came back to {len(missed)} events: told {verdict}, in {took:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=("uvicorn", "daphne"), default="uvicorn")
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--away", type=float, default=30)
    parser.add_argument("--database", default="", help="default: SQLite in a scratch folder")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted_upstream(whole(200, completion())) as upstream,
    ):
        database = options.database or f"sqlite:///{folder}/db.sqlite3"
        gateway = Gateway(Path(folder), database, options.server)
        gateway.apply(configuration(upstream.base_url))
        try:
            gateway.start()
            measure(gateway, options.listeners, options.seconds, options.away)
        finally:
            gateway.stop()


if __name__ == "__main__":
    main()
