"""The accounts a gateway gives of its requests, each as numbers by the same names.

None of them may differ from another in a name that both have. Money is a Decimal throughout: what
JSON calls a number is read by its digits.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway import KEY, Gateway
from tests.operations.mixed import ADMIN, Moody, Tokens

Account = Mapping[str, Any]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
STATUSES = ("success", "error", "aborted", "interrupted")
KINDS = ("input", "output", "cached", "cache_write", "reasoning")


def ask(gateway: Gateway, path: str, key: str = ADMIN, **headers: str) -> bytes:
    answered = gateway.call("GET", path, headers={"authorization": f"Bearer {key}", **headers})
    assert answered.status == 200, answered.body
    return answered.body


def read_json(raw: str | bytes) -> Any:
    return json.loads(raw, parse_float=Decimal)


def status(gateway: Gateway, key: str = ADMIN) -> dict[str, Any]:
    found: dict[str, Any] = read_json(ask(gateway, "/v1/status", key))
    return found


# --- metrics ------------------------------------------------------------------------------------


def samples(gateway: Gateway, **headers: str) -> Samples:
    families = text_string_to_metric_families(ask(gateway, "/metrics", **headers).decode())
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


def by_metrics(found: Samples) -> Account:
    requests, tokens = "abstractcore_requests_total", "abstractcore_tokens_total"
    by_status = {each: total(found, requests, status=each) for each in STATUSES}
    return {
        "requests": total(found, requests),
        **by_status,
        "failures": by_status["error"] + by_status["interrupted"],
        **{f"tokens_{kind}": total(found, tokens, kind=kind) for kind in KINDS},
        "cost_usd": sum(
            (
                Decimal(repr(value))
                for (name, _), value in found.items()
                if name == "abstractcore_cost_usd_total"
            ),
            Decimal(),
        ),
        "unpriced_requests": total(found, "abstractcore_unpriced_requests_total"),
        "attempts": total(found, "abstractcore_upstream_attempts_total"),
    }


# --- rows, events, totals -----------------------------------------------------------------------


def add_up(rows: Iterable[Mapping[str, Any]]) -> Account:
    """Of usage rows, or events that tell the same of a request."""
    found = list(rows)
    names = [f"tokens_{kind}" for kind in KINDS if not found or f"tokens_{kind}" in found[0]]
    statuses = Counter(row["status"] for row in found)
    return {
        "requests": len(found),
        **{each: statuses[each] for each in STATUSES},
        "failures": statuses["error"] + statuses["interrupted"],
        **{name: sum(row[name] for row in found) for name in names},
        "cost_usd": sum((Decimal(row["cost_usd"] or 0) for row in found), Decimal()),
        "unpriced_requests": sum(row["cost_usd"] is None for row in found),
        "attempts": sum(row["attempts"] for row in found),
    }


def usage_rows(gateway: Gateway) -> list[dict[str, Any]]:
    """All of them, page by page."""
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        page = read_json(ask(gateway, f"/v1/usage?limit=1000{after}"))
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = f"&after={page['next_cursor']}"


def completed_events(gateway: Gateway) -> list[dict[str, Any]]:
    query = "SELECT CAST(fields AS TEXT) FROM events_app_event WHERE type = 'generation_completed'"
    return [read_json(row[0]) for row in gateway.select(query)]


def by_rollups(gateway: Gateway) -> Account:
    counts = ("requests", "failures", "unpriced_requests", "cost_usd")
    names = (*counts, *(f"tokens_{kind}" for kind in KINDS))
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in names)
    ((*found,),) = gateway.select(f"SELECT {sums} FROM usage_hourlyusage")
    told = {name: int(value) for name, value in zip(names, found, strict=True)}
    return {**told, "cost_usd": Decimal(told["cost_usd"]).scaleb(-12)}


def by_summary(gateway: Gateway, by: str) -> list[tuple[str, Account]]:
    """Its total, and its groups added up."""
    found = read_json(ask(gateway, f"/v1/usage/summary?by={by}"))
    names = [name for name in found["total"] if name != "cost_usd"]
    groups = {name: sum(each[name] for each in found["data"]) for name in names}
    groups["cost_usd"] = sum((Decimal(each["cost_usd"]) for each in found["data"]), Decimal())
    return [
        (f"summary by {by}", {**found["total"], "cost_usd": Decimal(found["total"]["cost_usd"])}),
        (f"groups by {by}", groups),
    ]


def by_status(gateway: Gateway) -> Account:
    found = status(gateway)
    return {"requests": found["total_requests"], "cost_usd": Decimal(found["cost_usd_today"])}


def by_session(gateway: Gateway, session: str) -> Account:
    found = read_json(ask(gateway, f"/v1/sessions/{session}", KEY))
    return {
        "tokens": found["total_tokens"],
        "cost_usd": Decimal(found["total_cost"]),
        "unpriced_requests": found["unpriced_requests"],
    }


# --- the events as they come --------------------------------------------------------------------


class Reader:
    """Reads all events as they come, and comes back behind the last one when it is cut off."""

    def __init__(self, gateway: Gateway) -> None:
        self.completed: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.types: Counter[str] = Counter()
        self._gateway = gateway
        self._last = 0
        self._over = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._socket is not None:
            with suppress(OSError):  # it was cut off
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(40)

    def _run(self) -> None:
        while not self._over.is_set():
            with suppress(OSError, http.client.HTTPException):
                self._read()
            self._over.wait(0.2)

    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=20)
        headers = {"authorization": f"Bearer {ADMIN}", "last-event-id": str(self._last)}
        connection.request("GET", "/v1/events/stream", headers=headers)
        self._socket = connection.sock
        answer = connection.getresponse()
        if answer.status != 200:
            return
        fields: dict[str, str] = {}
        while (line := answer.readline().decode()) and not self._over.is_set():
            name, mark, value = line.rstrip("\n").partition(": ")
            if mark and name:
                fields[name] = value
            elif "data" in fields:
                self._take(fields)
                fields = {}
        connection.close()

    def _take(self, fields: dict[str, str]) -> None:
        self.types[fields["event"]] += 1
        self._last = int(fields["id"])
        self.ids.append(self._last)
        if fields["event"] == "generation_completed":
            self.completed.append(read_json(fields["data"]))


# --- all of them --------------------------------------------------------------------------------


def all_accounts(gateway: Gateway, reader: Reader) -> dict[str, Account]:
    accounts: dict[str, Account] = {
        "usage rows": add_up(usage_rows(gateway)),
        "events": add_up(completed_events(gateway)),
        "events as told": add_up(reader.completed),
        "rollups": by_rollups(gateway),
        "metrics": by_metrics(samples(gateway)),
        "status": by_status(gateway),
    }
    for by in ("day", "hour", "model", "provider", "key"):
        accounts |= by_summary(gateway, by)
    return accounts


def session_accounts(gateway: Gateway, sessions: Sequence[str]) -> dict[str, Account]:
    """Of all sessions: their rows, the summary, and what they say themselves."""
    rows = [row for row in usage_rows(gateway) if row["session_id"] in sessions]
    told = [by_session(gateway, session) for session in sessions]
    return {
        "session rows": _with_tokens(add_up(rows)),
        **{name: _with_tokens(each) for name, each in by_summary(gateway, "session")},
        "sessions": {name: sum(each[name] for each in told) for name in told[0]},
    }


def single_sessions(gateway: Gateway, sessions: Sequence[str]) -> list[str]:
    """What of each session does not agree with its rows."""
    rows = usage_rows(gateway)
    found = []
    for session in sessions:
        own = _with_tokens(add_up(row for row in rows if row["session_id"] == session))
        found += differences({"rows": own, session: by_session(gateway, session)})
    return found


def _with_tokens(account: Account) -> Account:
    return {**account, "tokens": account["tokens_input"] + account["tokens_output"]}


def differences(accounts: Mapping[str, Account]) -> list[str]:
    """Where an account says otherwise than the first one."""
    (first, expected), *others = accounts.items()
    return [
        f"{name} of {account}: {told[name]}, of {first}: {expected[name]}"
        for account, told in others
        for name in told
        if name in expected and told[name] != expected[name]
    ]


def against_upstream(rows: Sequence[Mapping[str, Any]], upstream: Moody) -> list[str]:
    """Where the ledger says otherwise than the upstream of a request whose tokens that has counted,
    of how often it was asked, or of whether it was asked."""
    known = {row["request_id"] for row in rows}
    found = [f"{mark} is not in the ledger" for mark in upstream.asked if mark not in {*known, ""}]
    summaries = Tokens()
    for row in rows:
        mark, counted = row["request_id"], Tokens(*(row[f"tokens_{kind}"] for kind in KINDS))
        if row["endpoint"] == "sessions.compact":
            summaries += counted
            continue
        if row["status"] == "interrupted":
            continue
        if not row["estimated"] and counted != (said := upstream.told.get(mark, Tokens())):
            found.append(f"{mark}: {counted} in the ledger, {said} upstream")
        if row["attempts"] != upstream.asked[mark]:
            found.append(f"{mark}: {row['attempts']} attempts, asked {upstream.asked[mark]} times")
    said = upstream.told.get("", Tokens())
    if not any(row["status"] == "interrupted" for row in rows) and summaries != said:
        found.append(f"summaries: {summaries} in the ledger, {said} upstream")
    return found
