"""A gateway of two workers under mixed requests, and whether all it tells of them agrees.

    python -m tests.operations.stage 5000
    python -m tests.operations.stage 5000 --kill --database postgres://root@127.0.0.1:5432/postgres
    python -m tests.operations.stage 5000 --outage 8 --database postgres://…

Sends so many of `mixed.KINDS`, waits until all is recorded, prints every account and what differs,
and ends with 1 if anything does. `--kill` ends a worker with SIGKILL after a third of them,
`--outage` takes the database away for so many seconds after two thirds. With `--database` it makes
one of its own beside that one, and drops it; without, it is a SQLite file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.chaos.outage import database_beside, taken_away
from tests.gateway import Gateway, wait_until
from tests.operations.accounts import (
    Reader,
    add_up,
    against_upstream,
    all_accounts,
    by_metrics,
    completed_events,
    differences,
    samples,
    session_accounts,
    single_sessions,
    status,
    usage_rows,
)
from tests.operations.mixed import Moody, begin_sessions, configured, send_mixed
from tests.upstream import scripted_upstream


def a_worker(gateway: Gateway) -> int:
    pid: int = status(gateway)["workers"][0]["pid"]
    return pid


def kill_a_worker(gateway: Gateway) -> None:
    os.kill(a_worker(gateway), signal.SIGKILL)


@contextmanager
def two_workers(folder: Path, database_url: str, base_url: str) -> Iterator[Gateway]:
    gateway = Gateway(folder, database_url, workers=2)
    gateway.environment["ABSTRACTCORE_OUTBOUND_ALLOW"] = "127.0.0.0/8"
    gateway.apply(configured(base_url))
    try:
        gateway.start()
        wait_until(lambda: len(status(gateway)["workers"]) == 2, seconds=20)
        yield gateway
    finally:
        gateway.stop()


def wait_for_rest(gateway: Gateway, reader: Reader | None = None) -> None:
    """Until every request is recorded, those of a killed worker too, and all is counted."""
    wait_until(
        lambda: not gateway.open_entries() | gateway.closed_entries(),
        seconds=60,
        why=lambda: f"in the journals: {gateway.open_entries() | gateway.closed_entries()}",
    )

    def is_counted() -> bool:
        rows = len(gateway.rows())
        heard = rows if reader is None else len(reader.completed)
        told = len(completed_events(gateway))
        return bool(rows == told == heard == by_metrics(samples(gateway))["requests"])

    wait_until(
        is_counted,
        seconds=30,
        why=lambda: str(differences({"rows": add_up(usage_rows(gateway))})),
    )


def main(arguments: argparse.Namespace) -> int:
    moody, number = Moody(), arguments.number
    with (
        tempfile.TemporaryDirectory() as folder,
        _database(arguments.database, Path(folder)) as url,
        scripted_upstream(moody) as upstream,
        two_workers(Path(folder), url, upstream.base_url) as gateway,
    ):
        meanwhile: dict[int, Callable[[], None]] = {}
        if arguments.kill:
            meanwhile[number // 3] = lambda: kill_a_worker(gateway)
        if arguments.outage:
            meanwhile[number * 2 // 3] = lambda: _away(url, arguments.outage)
        reader, sessions = Reader(gateway), begin_sessions(gateway)
        began = time.monotonic()
        asyncio.run(send_mixed(gateway, number, sessions, at_once=32, meanwhile=meanwhile))
        print(f"{number} requests in {time.monotonic() - began:.0f} s")
        wait_for_rest(gateway, reader)
        accounts = all_accounts(gateway, reader), session_accounts(gateway, sessions)
        for each in accounts:
            for name, account in each.items():
                print(f"{name:20}", *(f"{key}={value}" for key, value in account.items()))
        rows = usage_rows(gateway)
        wrong = [*differences(accounts[0]), *differences(accounts[1])]
        wrong += [*single_sessions(gateway, sessions), *against_upstream(rows, moody)]
        wrong += [] if reader.ids == sorted(set(reader.ids)) else ["events came twice"]
        print(f"events heard: {dict(reader.types)}")
        reader.stop()
        print(f"{len(wrong)} differences", *wrong, sep="\n")
        return 1 if wrong else 0


def _away(url: str, seconds: float) -> None:
    with taken_away(url):
        time.sleep(seconds)


@contextmanager
def _database(beside: str, folder: Path) -> Iterator[str]:
    if not beside:
        yield f"sqlite:///{folder / 'db.sqlite3'}"
        return
    name = f"agreement_{uuid.uuid4().hex}"
    with psycopg.connect(beside, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield database_beside(beside, name)
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("number", type=int)
    parser.add_argument("--database", default="", metavar="URL")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--outage", type=float, default=0, metavar="SECONDS")
    sys.exit(main(parser.parse_args()))
