"""The gateway as its users run it: a server process with a database and a data directory."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psycopg
import yaml

ROOT = Path(__file__).resolve().parents[1]
KEY = "gw-test-0123456789abcdef0123456789abcdef"
Server = Literal["uvicorn", "daphne"]
_COLUMNS = (
    "request_id, status, estimated, stream, finish_reason, attempts, tokens_input, tokens_output"
)


class Row(NamedTuple):
    """What the tests read of a usage record."""

    request_id: str
    status: str
    estimated: bool
    stream: bool
    finish_reason: str
    attempts: int
    tokens_input: int
    tokens_output: int


class Told(NamedTuple):
    """What the tests read of an event."""

    type: str
    request_id: str
    key: str
    provider: str
    model: str
    fields: dict[str, Any]


def _object(value: Any) -> dict[str, Any]:
    """SQLite's JSON is text."""
    found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return found


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Gateway:
    """One server process at a time, over the same database and data directory."""

    folder: Path
    database_url: str
    server: Server = "uvicorn"
    port: int = 0
    workers: int = 1
    """Of uvicorn."""
    environment: dict[str, str] = field(default_factory=dict)
    log_level: str = "warning"
    """Of uvicorn; daphne's is the environment's."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def apply(self, configuration: dict[str, Any]) -> None:
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "manage.py", "apply_config", str(path)],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *, port: int = 0) -> None:
        """Starts it, where nothing else is said at a port of its own."""
        self.port = port or free_port()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=ROOT, env=self._environment(), stdout=log, stderr=log
            )
        wait_until(self._is_ready, seconds=60, why=lambda: self.log)

    def _command(self) -> list[str]:
        port = str(self.port)
        if self.server == "uvicorn":
            script = Path(sys.executable).with_name("abstractcore-server")
            command = [str(script), "--port", port, "--log-level", self.log_level]
            return [*command, "--workers", str(self.workers)]
        daphne = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", port, "-v", "0"]
        return [*daphne, "gateway_site.asgi:application"]

    def _environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "DATABASE_URL": self.database_url,
            "ABSTRACTCORE_DATA_DIR": str(self.folder / "data"),
            **self.environment,
        }

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        with suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/readyz").status == 200
        return False

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answered:
        """One request on a connection of its own, as it is: nothing is added to the headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            with closing(response):
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answered(response.status, found, response.read())

    def chat(self, request: Any, **headers: str) -> Answered:
        """Posts a chat completion request, JSON values or bytes, with the key."""
        return self.post("/v1/chat/completions", request, **headers)

    def post(self, path: str, request: Any, **headers: str) -> Answered:
        """Posts JSON values or bytes, with the key."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        all_headers = {
            "authorization": f"Bearer {KEY}",
            "content-type": "application/json",
            **named,
        }
        return self.call("POST", path, body, all_headers)

    def stop(self) -> None:
        """Asks it to end, and waits until it has."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(20)
            self._process = None

    def resident_kib(self) -> int:
        command = ["ps", "-o", "rss=", "-p", str(self.pid)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    def rows(self) -> list[Row]:
        """The ledger, as it is now."""
        return [Row(*row) for row in self.select(f"SELECT {_COLUMNS} FROM usage_usagerecord")]

    def events(self) -> list[Told]:
        """The events, in their order, as they are now."""
        columns = "type, request_id, key, provider, model, fields"
        found = self.select(f'SELECT {columns} FROM events_app_event ORDER BY "id"')
        read = [(*row[:-1], _object(row[-1])) for row in found]
        return [Told(*row) for row in read]

    def select(self, query: str) -> list[Any]:
        if self.database_url.startswith("sqlite:///"):
            path = self.database_url.removeprefix("sqlite:///")
            with closing(sqlite3.connect(path, timeout=20)) as database:
                return database.execute(query).fetchall()
        with psycopg.connect(self.database_url) as server:
            return server.execute(query.encode()).fetchall()

    def execute(self, statement: str) -> None:
        """Does to the database what only time or an operator would."""
        if self.database_url.startswith("sqlite:///"):
            path = self.database_url.removeprefix("sqlite:///")
            with closing(sqlite3.connect(path, timeout=20)) as database:
                database.execute(statement)
                database.commit()
        else:
            with psycopg.connect(self.database_url) as server:
                server.execute(statement.encode())

    def wait_for_rows(self, count: int, *, seconds: float = 20) -> list[Row]:
        """The ledger once it has this many rows."""
        wait_until(
            lambda: len(self.rows()) >= count,
            seconds=seconds,
            why=lambda: f"{len(self.rows())} rows instead of {count}; open: {self.open_entries()}",
        )
        return self.rows()

    def usage_row(self, request_id: str) -> dict[str, Any]:
        """A request's row once it is recorded, as `/v1/usage` tells it."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            path = f"/v1/usage?request_id={request_id}"
            answered = self.call("GET", path, headers={"authorization": f"Bearer {KEY}"})
            found[:] = answered.json()["data"]
            return bool(found)

        wait_until(is_there, seconds=20)
        return found[0]

    def open_entries(self) -> set[str]:
        """Ids of the journal's requests that no line closes."""
        opened, closed = self._journal()
        return opened - closed

    def closed_entries(self) -> set[str]:
        """Ids of the requests that the journal still tells the end of."""
        return self._journal()[1]

    def _journal(self) -> tuple[set[str], set[str]]:
        opened: set[str] = set()
        closed: set[str] = set()
        for path in (self.folder / "data" / "journal").glob("*.jsonl"):
            with suppress(FileNotFoundError):  # recorded and gone since the listing
                for line in path.read_bytes().splitlines():
                    entry = json.loads(line)
                    (closed if entry["line"] == "closed" else opened).add(entry["id"])
        return opened, closed


def configuration(base_url: str, **provider: Any) -> dict[str, Any]:
    """One provider `scripted` at this address, one route to it, and one key."""
    return {
        "providers": [
            {
                "name": "scripted",
                "kind": "openai-compatible",
                "base_url": base_url,
                "api_key": "sk-upstream-0123456789",
                "max_retries": 0,
                # Tests have it fail as often as they like; those of breakers set their own.
                "breaker": {"failures": 0},
                **provider,
            }
        ],
        "routes": [
            {
                "name": "smart",
                "strategy": "fallback",
                "targets": [{"provider": "scripted", "model": "gpt-4o-mini"}],
            }
        ],
        "keys": [{"name": "ci", "secret": KEY, "admin": False}],
    }


def with_ollama(configured: dict[str, Any]) -> dict[str, Any]:
    """The same with a provider `llama` at the same address that is asked in Ollama's words."""
    scripted = configured["providers"][0]
    llama = {**scripted, "name": "llama", "kind": "ollama"}
    return {**configured, "providers": [scripted, llama]}


@contextmanager
def running_gateway(
    folder: Path, database_url: str, base_url: str, *, server: Server = "uvicorn", **provider: Any
) -> Iterator[Gateway]:
    """A gateway whose provider `scripted` is at `base_url`."""
    gateway = Gateway(folder, database_url, server)
    gateway.apply(configuration(base_url, **provider))
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()


def free_port() -> int:
    """A port nobody listens at, and none that the system gives to callers meanwhile: a server that
    loads for ten seconds found its port taken by somebody's outgoing connection."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(
    holds: Callable[[], bool], *, seconds: float, why: Callable[[], str] = lambda: "too late"
) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)
