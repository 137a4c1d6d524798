"""What listeners of `/v1/events/stream` cost a gateway of two workers under 100 events a second:
CPU and memory without and with them, and how late they are told.

    PYTHONPATH=. .venv/bin/python bench/listeners.py [--listeners 200] [--redis redis://…]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import tempfile
import threading
import time
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

from tests.gateway import KEY, Gateway, configuration
from tests.upstream import completion, scripted_upstream, whole

EVENTS_PER_S = 100
PHASE_S = 8.0
CHAT = json.dumps({"model": "smart", "messages": [{"role": "user", "content": "Hello."}]})
AUTHORIZATION = f"Bearer {KEY}"


class Counted:
    """What the listeners were told, and how late."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.notices = 0
        self.delays: list[float] = []


async def listen(port: int, counted: Counted) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET /v1/events/stream HTTP/1.1\r\nhost: localhost\r\nauthorization: {AUTHORIZATION}"
    writer.write(f"{head}\r\n\r\n".encode())
    number = 0
    try:
        while line := await reader.readline():
            counted.notices += line.startswith(b"event: dropped")
            if line.startswith(b"data: "):
                number += 1
                # To read each costs more than the gateway's share of it; and the recorder writes
                # down 50 at once.
                if number % 47 == 0:
                    counted.delays.append(delay_of(json.loads(line[6:])))
    finally:
        counted.events.append(number)
        writer.close()


def delay_of(event: dict[str, str]) -> float:
    return time.time() - datetime.fromisoformat(event["timestamp"]).timestamp()


def chat_on(port: int, stopping: threading.Event) -> None:
    """Every chat is two events."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        due = time.monotonic()
        headers = {"authorization": AUTHORIZATION, "content-type": "application/json"}
        while not stopping.is_set():
            connection.request("POST", "/v1/chat/completions", CHAT, headers)
            connection.getresponse().read()
            due += 2 / EVENTS_PER_S
            time.sleep(max(0.0, due - time.monotonic()))


def family(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True)
    return [pid] + [each for child in listed.stdout.split() for each in family(int(child))]


def cpu_seconds(pid: int) -> float:
    ticks = 0
    for each in family(pid):
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> int:
    pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in family(pid)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") >> 20


async def measure(gateway: Gateway, label: str) -> None:
    before = cpu_seconds(gateway.pid)
    await asyncio.sleep(PHASE_S)
    share = (cpu_seconds(gateway.pid) - before) / PHASE_S
    print(f"{label:24} {share:6.1%} of a core   {resident_mib(gateway.pid)} MiB")


async def compare(gateway: Gateway, listeners: int) -> None:
    stopping = threading.Event()
    load = threading.Thread(target=chat_on, args=(gateway.port, stopping))
    load.start()
    counted = Counted()
    tasks: list[asyncio.Task[None]] = []
    try:
        await measure(gateway, "load")
        tasks = [asyncio.create_task(listen(gateway.port, counted)) for _ in range(listeners)]
        await asyncio.sleep(2)
        await measure(gateway, f"load, {listeners} listeners")
    finally:
        stopping.set()
        load.join()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    delays = sorted(counted.delays)
    middle, late, last = (delays[int(len(delays) * part)] for part in (0.5, 0.99, 0.9999))
    print(f"told {min(counted.events)}-{max(counted.events)} events, {counted.notices} notices")
    print(f"delay {middle * 1000:.0f} ms, p99 {late * 1000:.0f} ms, most {last * 1000:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--redis", default="")
    parser.add_argument("--database", default="", help="default: SQLite in a scratch folder")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted_upstream(whole(200, completion())) as upstream,
    ):
        database = options.database or f"sqlite:///{folder}/db.sqlite3"
        gateway = Gateway(Path(folder), database, workers=2)
        gateway.environment = {"REDIS_URL": options.redis}
        gateway.apply(configuration(upstream.base_url))
        try:
            gateway.start()
            asyncio.run(compare(gateway, options.listeners))
        finally:
            gateway.stop()


if __name__ == "__main__":
    main()
