"""A gateway of several workers under mixed requests, and the three accounts it gives of them.

`python -m tests.operations.stage 5000` does the same at length, on SQLite, and prints the accounts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.asking import Caller
from tests.gateway import KEY, Gateway, configuration, wait_until
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    chunk,
    completion,
    scripted_upstream,
    usage_chunk,
)

ADMIN = "gw-test-admin-0123456789abcdef0123456789ab"
MODES = ("whole", "stream", "fails", "retried", "rejected", "cut", "slow", "unpriced")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def configured(base_url: str) -> dict[str, Any]:
    found = configuration(base_url, max_retries=1)
    priced = {"price": {"input": 0.15, "output": 0.60}}
    found["deployments"] = [{"provider": "scripted", "model": "gpt-4o-mini", **priced}]
    found["keys"].append({"name": "boss", "secret": ADMIN, "admin": True})
    return found


class Moody:
    """An upstream that does what the request's `user`, `<mode>-<number>`, says."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        user = asked.json()["user"]
        self._seen[user] += 1
        match user.partition("-")[0]:
            case "fails":
                peer.answer(503, b'{"error":{"message":"no"}}', retry_after="0")
            case "retried" if self._seen[user] == 1:
                peer.answer(503, b'{"error":{"message":"not now"}}', retry_after="0")
            case "rejected":
                peer.answer(400, b'{"error":{"message":"wrong"}}')
            case "slow":
                peer.begin()
                for _ in range(40):
                    peer.piece(chunk(content="word "))
                    await asyncio.sleep(0.05)
                peer.piece(chunk("stop") + DONE)
                peer.end()
            case "stream":
                peer.begin()
                peer.piece(chunk(content="Hello") + chunk("stop") + usage_chunk(7, 2) + DONE)
                peer.end()
            case "cut":
                peer.begin()
                peer.piece(chunk(content="Hello"))
                peer.hang_up()
            case _:
                peer.answer(200, json.dumps(completion()).encode())


async def send(gateway: Gateway, mode: str, number: int) -> None:
    """One request; the caller of a slow one leaves in the middle."""
    model = "scripted/gpt-4o" if mode == "unpriced" else "smart"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello."}],
        "stream": mode in ("stream", "cut", "slow"),
        "user": f"{mode}-{number}",
    }
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        caller = Caller(reader, writer)
        writer.write(_post(body, f"{mode}-{number}"))
        try:
            if mode == "slow":
                await asyncio.wait_for(caller.read_until(b"word"), 20)
            else:
                await asyncio.wait_for(caller.read_all(), 20)
        finally:
            await caller.leave()


async def send_mixed(
    gateway: Gateway, number: int, *, kill_after: int | None = None, at_once: int = 16
) -> None:
    """So many requests of all MODES; a worker is killed after some of them."""
    gate = asyncio.Semaphore(at_once)
    begun = 0

    async def one(at: int) -> None:
        nonlocal begun
        async with gate:
            begun += 1
            if begun == kill_after:
                os.kill(await asyncio.to_thread(a_worker, gateway), signal.SIGKILL)
            await send(gateway, MODES[at % len(MODES)], at)

    await asyncio.gather(*(one(at) for at in range(number)))


def _post(body: dict[str, Any], request_id: str) -> bytes:
    raw = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {KEY}",
        f"x-request-id: {request_id}",
        "content-type: application/json",
        f"content-length: {len(raw)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def status(gateway: Gateway, key: str = ADMIN) -> dict[str, Any]:
    answered = gateway.call("GET", "/v1/status", headers={"authorization": f"Bearer {key}"})
    assert answered.status == 200, answered.body
    found: dict[str, Any] = answered.json()
    return found


def a_worker(gateway: Gateway) -> int:
    pid: int = status(gateway)["workers"][0]["pid"]
    return pid


def samples(gateway: Gateway, **headers: str) -> Samples:
    answered = gateway.call(
        "GET", "/metrics", headers={"authorization": f"Bearer {ADMIN}", **headers}
    )
    assert answered.status == 200, answered.body
    families = text_string_to_metric_families(answered.body.decode())
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
    }


def total(found: Samples, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(
        value for (each, told), value in found.items() if each == name and wanted <= set(told)
    )


def by_metrics(found: Samples) -> dict[str, Any]:
    return {
        "requests": total(found, "abstractcore_requests_total"),
        **{
            status: total(found, "abstractcore_requests_total", status=status)
            for status in ("success", "error", "aborted", "interrupted")
        },
        "input": total(found, "abstractcore_tokens_total", kind="input"),
        "output": total(found, "abstractcore_tokens_total", kind="output"),
        "cost": round(total(found, "abstractcore_cost_usd_total") * 10**12),
        "unpriced": total(found, "abstractcore_unpriced_requests_total"),
        "attempts": total(found, "abstractcore_upstream_attempts_total"),
    }


def by_rows(gateway: Gateway) -> dict[str, Any]:
    rows = gateway.select(
        "SELECT status, tokens_input, tokens_output, cost_usd, attempts FROM usage_usagerecord"
    )
    statuses = Counter(row[0] for row in rows)
    return {
        "requests": len(rows),
        **{each: statuses[each] for each in ("success", "error", "aborted", "interrupted")},
        "input": sum(row[1] for row in rows),
        "output": sum(row[2] for row in rows),
        "cost": sum(row[3] or 0 for row in rows),
        "unpriced": sum(row[3] is None for row in rows),
        "attempts": sum(row[4] for row in rows),
    }


def by_rollups(gateway: Gateway) -> dict[str, Any]:
    names = ("requests", "failures", "tokens_input", "tokens_output", "cost_usd")
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in (*names, "unpriced_requests"))
    ((requests, failures, input_, output, cost, unpriced),) = gateway.select(
        f"SELECT {sums} FROM usage_hourlyusage"
    )
    return {
        "requests": int(requests),
        "failures": int(failures),
        "input": int(input_),
        "output": int(output),
        "cost": int(Decimal(cost)),
        "unpriced": int(unpriced),
    }


def wait_for_rest(gateway: Gateway, number: int) -> None:
    """Until every request is recorded, those of a killed worker too, and all is counted."""

    def is_done() -> bool:
        return len(gateway.rows()) >= number and not gateway.open_entries()

    wait_until(is_done, seconds=40, why=lambda: f"{len(gateway.rows())} of {number}")
    wait_until(
        lambda: by_metrics(samples(gateway)) == by_rows(gateway),
        seconds=20,
        why=lambda: f"{by_metrics(samples(gateway))} and {by_rows(gateway)}",
    )


def _say(lines: Iterable[tuple[str, Any]]) -> None:
    for name, told in lines:
        print(f"{name:9}", told)


def main(number: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted_upstream(Moody()) as upstream,
    ):
        path = Path(folder)
        gateway = Gateway(path, f"sqlite:///{path / 'db.sqlite3'}", workers=2)
        gateway.apply(configured(upstream.base_url))
        gateway.start()
        try:
            asyncio.run(send_mixed(gateway, number, kill_after=number // 3, at_once=32))
            wait_until(lambda: not gateway.open_entries(), seconds=60)
            wait_for_rest(gateway, 1)
            _say([("metrics", by_metrics(samples(gateway))), ("rows", by_rows(gateway))])
            _say([("rollups", by_rollups(gateway))])
        finally:
            gateway.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
