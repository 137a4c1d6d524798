"""How long a turn of a long session takes, by its policy: with `drop_oldest` and a known window it
costs what the window holds, not what the session does.

    python bench/sessions.py [--messages 2000] [--turns 30]

Starts a gateway over the `fake` provider on a database of its own, imports a session of so many
messages, and prints milliseconds a turn (median, 95th percentile) beside those of a short session.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.gateway import KEY, Gateway

WINDOW = 4_000
WORDS = "word " * 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--turns", type=int, default=30)
    chosen = parser.parse_args()
    with _gateway() as gateway:
        for model, policy in (("narrow", "drop_oldest"), ("wide", "error")):
            for messages in (20, chosen.messages):
                session = _imported(gateway, f"demo/{model}", policy, messages)
                _report(f"{policy}, {messages} messages", _times(gateway, session, chosen.turns))
        session = _imported(gateway, "demo/narrow", "error", chosen.messages)
        _report("a page of 100", _page_times(gateway, session, chosen.turns))
        began = time.perf_counter()
        compacted = gateway.post(f"/v1/sessions/{session}/compact", {}).json()
        seconds = time.perf_counter() - began
        print(f"compacted {compacted['compacted_messages']} messages in {seconds:.2f} s")


@contextmanager
def _gateway() -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gateway = Gateway(folder, f"sqlite:///{folder / 'bench.sqlite3'}")
        models: dict[str, Any] = {"narrow": {}, "wide": {}}
        gateway.apply(
            {
                "providers": [{"name": "demo", "kind": "fake", "options": {"models": models}}],
                "deployments": [{"provider": "demo", "model": "narrow", "context_window": WINDOW}],
                "keys": [{"name": "ci", "secret": KEY}],
            }
        )
        gateway.start()
        try:
            yield gateway
        finally:
            gateway.stop()


def _imported(gateway: Gateway, model: str, policy: str, count: int) -> str:
    told = "2026-01-01T00:00:00+00:00"
    messages = [
        {
            "id": f"msg_{at}",
            "number": 2 * at,
            "created_at": told,
            "message": {"role": "user" if at % 2 else "assistant", "content": f"{at} {WORDS}"},
        }
        for at in range(1, count + 1)
    ]
    session = {"model": model, "truncation": policy, "max_tokens": 50}
    document = {"object": "abstractcore.session", "version": 1, "created_at": told}
    made = gateway.post(
        "/v1/sessions/import", document | {"session": session, "messages": messages}
    )
    assert made.status == 201, made.body
    name: str = made.json()["id"]
    return name


def _times(gateway: Gateway, session: str, turns: int) -> list[float]:
    times = []
    for turn in range(turns):
        began = time.perf_counter()
        body = {"messages": [{"role": "user", "content": f"Turn {turn}"}]}
        answered = gateway.post(f"/v1/sessions/{session}/chat", body)
        times.append((time.perf_counter() - began) * 1000)
        assert answered.status == 200, answered.body
    return times


def _page_times(gateway: Gateway, session: str, times: int) -> list[float]:
    found = []
    headers = {"authorization": f"Bearer {KEY}"}
    for _ in range(times):
        began = time.perf_counter()
        gateway.call("GET", f"/v1/sessions/{session}?limit=100", headers=headers)
        found.append((time.perf_counter() - began) * 1000)
    return found


def _report(what: str, times: list[float]) -> None:
    worst = statistics.quantiles(times, n=20)[-1]
    print(f"{what}: {statistics.median(times):.1f} ms, 95 %: {worst:.1f} ms")


if __name__ == "__main__":
    main()
