"""Listeners of a running gateway's events, and events put into its table from outside."""

from __future__ import annotations

import http.client
import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg

from tests.gateway import KEY, ROOT, Gateway, wait_until

ADMIN = "gw-test-admin-0123456789abcdef0123456789abc"
PATH = "/v1/events/stream"
_COLUMNS = "line, type, created_at, request_id, key, session_id, provider, model, fields"


class Heard(NamedTuple):
    """One event as it stood in the stream; `id` is that of its own block, 0 where it has none."""

    id: int
    type: str
    data: dict[str, Any]
    at: float


class Listener:
    """A reader of the stream in a thread of its own."""

    def __init__(self, gateway: Gateway, query: str, headers: dict[str, str]) -> None:
        self.heard: list[Heard] = []
        self.comments = 0
        self.greeted = 0
        """The id the stream began behind."""
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        self._connection.request("GET", PATH + query, headers=headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.body = self._answer.read() if self.status != 200 else b""
        self._socket = self._connection.sock
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        block: list[str] = []
        with suppress(OSError, http.client.HTTPException, ValueError):
            while line := self._answer.readline():
                if line == b"\n":
                    self._take(block)
                    block = []
                else:
                    block.append(line.decode().rstrip("\n"))

    def _take(self, block: Sequence[str]) -> None:
        fields = dict(line.split(": ", 1) for line in block if not line.startswith(":"))
        self.comments += not fields
        if "data" in fields:
            data = json.loads(fields["data"])
            self.heard.append(Heard(int(fields.get("id", 0)), fields["event"], data, time.time()))
        elif "id" in fields:
            assert fields["retry"] == "2000"
            self.greeted = int(fields["id"])

    @property
    def ids(self) -> list[int]:
        return [each.id for each in self.heard]

    @property
    def types(self) -> list[str]:
        return [each.type for each in self.heard]

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def wait_for(self, number: int, *, seconds: float = 10) -> list[Heard]:
        """What was heard, once it is so many."""
        why = f"{number} events expected"
        wait_until(
            lambda: len(self.heard) >= number,
            seconds=seconds,
            why=lambda: f"{why}: {len(self.heard)}",
        )
        return self.heard

    def leave(self) -> None:
        with suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()


@contextmanager
def listening(
    gateway: Gateway, query: str = "", *, key: str | None = KEY, **headers: str
) -> Iterator[Listener]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        named["authorization"] = f"Bearer {key}"
    listener = Listener(gateway, query, named)
    try:
        yield listener
    finally:
        listener.leave()


@contextmanager
def sleeping(gateway: Gateway) -> Iterator[socket.socket]:
    """A listener who has asked and does not read; its own buffer is small."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", gateway.port))
        head = f"GET {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n\r\n"
        connection.sendall(head.encode())
        yield connection


def insert_rows(gateway: Gateway, number: int, **fields: str) -> None:
    """Puts events into the table, in one transaction, as another machine's worker would."""
    now = datetime.now(UTC)
    named = {"type": "tool_started", "key": "ci", "request_id": "r", "fields": "{}", **fields}
    rows = [
        (uuid.uuid4().hex, named["type"], now, named["request_id"], named["key"])
        + (named.get("session_id", ""), "", "", named["fields"])
        for _ in range(number)
    ]
    if gateway.database_url.startswith("sqlite"):
        texts = [(*row[:2], row[2].isoformat(" ").removesuffix("+00:00"), *row[3:]) for row in rows]
        path = gateway.database_url.removeprefix("sqlite:///")
        marks = ",".join("?" * 9)
        with closing(sqlite3.connect(path, timeout=20)) as database, database:
            database.executemany(
                f"INSERT INTO events_app_event ({_COLUMNS}) VALUES ({marks})", texts
            )
        return
    with psycopg.connect(gateway.database_url) as server, server.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(4702611093271534)")
        with cursor.copy(f"COPY events_app_event ({_COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)


def ids_in_table(gateway: Gateway, where: str = "true") -> list[int]:
    found = gateway.select(f"SELECT id FROM events_app_event WHERE {where} ORDER BY id")
    return [row[0] for row in found]


def admin_password(gateway: Gateway) -> str:
    """The password of a new member of staff `admin`."""
    done = subprocess.run(
        [sys.executable, "manage.py", "ensure_admin"],
        cwd=ROOT,
        env=gateway._environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    (password,) = re.findall(r"as admin with the password (\S+)", done.stdout)
    return str(password)
