"""The stream of events, as its readers see it."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.conftest import spare_database
from tests.events_app.stage import ADMIN, PATH, ids_in_table, insert_rows, listening, sleeping
from tests.gateway import KEY, Gateway, configuration, wait_until
from tests.upstream import Upstream, completion, scripted_upstream, silence, whole

OTHER = "gw-test-other-0123456789abcdef0123456789abc"
CHAT = {"model": "priced", "messages": [{"role": "user", "content": "a secret prompt"}]}


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


def configured(provider: Upstream) -> dict[str, Any]:
    found = configuration(provider.base_url)
    target = {"provider": "scripted", "model": "gpt-4o-mini"}
    found["deployments"] = [{**target, "price": {"input": 0.15, "output": 0.60}}]
    found["routes"].append({"name": "priced", "strategy": "fallback", "targets": [target]})
    found["keys"] += [
        {"name": "other", "secret": OTHER},
        {"name": "boss", "secret": ADMIN, "admin": True},
    ]
    return found


@pytest.fixture(scope="module")
def telling(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers that share nothing but the database."""
    folder = tmp_path_factory.mktemp("telling")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url, workers=2)
        gateway.apply(configured(provider))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def test_a_request_is_told_within_a_second_of_its_end(telling: Gateway, provider: Upstream) -> None:
    provider.script = whole(200, completion())
    with listening(telling) as listener:
        telling.chat(CHAT, x_request_id="told")
        ended = time.time()
        started, completed = listener.wait_for(2)
    assert completed.at - ended < 1
    assert started.id < completed.id
    assert (started.type, completed.type) == ("generation_started", "generation_completed")
    assert {name: started.data[name] for name in ("type", "request_id", "key", "model")} == {
        "type": "generation_started",
        "request_id": "told",
        "key": "ci",
        "model": "priced",
    }
    assert started.data["timestamp"].endswith("Z")
    assert (started.data["stream"], started.data["route"]) == (False, "priced")
    assert "session_id" not in started.data
    assert completed.data["tokens_output"] == 3
    assert completed.data["cost_usd"] == pytest.approx((9 * 0.15 + 3 * 0.60) / 1e6)
    assert not any(isinstance(value, dict | list) for value in completed.data.values())


def test_who_comes_back_is_told_what_it_missed_and_nothing_twice(telling: Gateway) -> None:
    with listening(telling) as listener:
        insert_rows(telling, 3)
        seen = listener.wait_for(3)[-1].id
    insert_rows(telling, 1300, fields='{"tool_name": "get_weather"}')
    insert_rows(telling, 1, key="other")
    with listening(telling, last_event_id=str(seen)) as listener:
        listener.wait_for(1300)
        insert_rows(telling, 5)
        heard = listener.wait_for(1305)
        assert listener.greeted == seen
    assert [each.id for each in heard] == ids_in_table(telling, f"key = 'ci' AND id > {seen}")
    assert heard[0].data["tool_name"] == "get_weather"


def test_a_browser_that_comes_back_goes_on_behind_its_last_id_not_its_first(
    telling: Gateway,
) -> None:
    insert_rows(telling, 4)
    *_, before, last = ids_in_table(telling, "key = 'ci'")
    with listening(telling, "?after=0", last_event_id=str(before)) as listener:
        assert listener.wait_for(1)[0].id == last
    with listening(telling, f"?after={before}") as listener:
        assert listener.wait_for(1)[0].id == last


def test_an_id_from_another_database_means_from_now_on(telling: Gateway) -> None:
    with listening(telling, "?after=9000000000000000000") as listener:
        insert_rows(telling, 1)
        listener.wait_for(1)


def test_filters_hold_for_what_was_and_for_what_comes(telling: Gateway) -> None:
    (before,) = ids_in_table(telling)[-1:] or [0]
    for _ in range(2):
        insert_rows(telling, 1, type="circuit_opened", session_id="s-1", request_id="r-1")
        insert_rows(telling, 1, type="circuit_closed", session_id="s-1", request_id="r-2")
        insert_rows(telling, 1, type="error", session_id="s-2", request_id="r-1")
        insert_rows(telling, 1)
    asked = {
        "types=circuit_opened,error": "type IN ('circuit_opened', 'error')",
        "types=circuit_opened&types=error": "type IN ('circuit_opened', 'error')",
        "types=circuit_opened," + ",".join(["error"] * 2000): "type IN ('circuit_opened', 'error')",
        "session_id=s-1": "session_id = 's-1'",
        "request_id=r-1": "request_id = 'r-1'",
        "session_id=s-1&request_id=r-2&types=error,circuit_closed": "request_id = 'r-2'",
    }
    for query, where in asked.items():
        with listening(telling, f"?after={before}&{query}") as listener:
            wanted = ids_in_table(telling, f"id > {before} AND {where}")
            listener.wait_for(len(wanted))
            insert_rows(telling, 2)
            insert_rows(telling, 1, type="circuit_closed", session_id="s-1", request_id="r-2")
            insert_rows(telling, 1, type="error", session_id="s-9", request_id="r-1")
            wanted = ids_in_table(telling, f"id > {before} AND {where}")
            listener.wait_for(len(wanted))
            assert listener.ids == wanted, query


@pytest.mark.parametrize(
    ("query", "headers", "param", "named"),
    [
        ("?types=error,nonsense", {}, "types", "nonsense"),
        ("?after=-1", {}, "after", "after"),
        ("?after=99999999999999999999", {}, "after", "after"),
        ("?after=%D9%A1", {}, "after", "after"),
        ("?after=1%0A2", {}, "after", "after"),
        ("?after=1%0Ddata:x", {}, "after", "after"),
        ("?after=%2B1", {}, "after", "after"),
        ("?types=" + ",".join(f"t{number}" for number in range(1000)), {}, "types", "t0"),
        ("?types=error%0Adata:x", {}, "types", "error"),
        ("", {"last_event_id": "x"}, "Last-Event-ID", "Last-Event-ID"),
        (f"?session_id={'s' * 301}", {}, "session_id", "session_id"),
        ("?request_id=%00", {}, "request_id", "request_id"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    telling: Gateway, query: str, headers: dict[str, str], param: str, named: str
) -> None:
    with listening(telling, query, **headers) as listener:
        assert listener.status == 400
        error = httpx2.Response(400, content=listener.body).json()["error"]
    assert error["param"] == param
    assert named in error["message"]


def test_only_those_who_say_who_they_are_may_listen(telling: Gateway) -> None:
    for query in ("", f"?api_key={KEY}", f"?key={KEY}", f"?token={KEY}"):
        with listening(telling, query, key=None) as listener:
            assert listener.status == 401
    with listening(telling, key="gw-no-such-key-0123456789abcdef") as listener:
        assert listener.status == 401


def test_the_head_and_other_methods_are_answered_at_once(telling: Gateway) -> None:
    with_key = {"authorization": f"Bearer {KEY}"}
    head = telling.call("HEAD", PATH, headers=with_key)
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    posted = telling.call("POST", PATH, headers={**with_key, "x-request-id": "mine"})
    assert (posted.status, posted.headers["x-request-id"]) == (405, "mine")
    assert "GET" in posted.headers["allow"]
    assert posted.json()["error"]["code"] == "method_not_allowed"
    assert telling.call("OPTIONS", PATH, headers=with_key).status == 200
    assert telling.call("GET", PATH, headers={**with_key, "host": "evil.example"}).status == 400


def test_a_key_is_told_of_its_own_and_an_admin_of_everyones(telling: Gateway) -> None:
    with (
        listening(telling, key=OTHER) as other,
        listening(telling, key=ADMIN) as boss,
        listening(telling) as own,
    ):
        for key in ("ci", "other", "nobody", ""):
            insert_rows(telling, 1, key=key)
        boss.wait_for(4)
        other.wait_for(1)
        own.wait_for(1)
        time.sleep(0.3)
        assert [each.data.get("key") for each in boss.heard] == ["ci", "other", "nobody", None]
        assert [each.data["key"] for each in other.heard] == ["other"]
        assert [each.data["key"] for each in own.heard] == ["ci"]


def test_filters_do_not_open_what_is_anothers(telling: Gateway) -> None:
    (before,) = ids_in_table(telling)[-1:] or [0]
    anothers = {"key": "other", "session_id": "s-other", "request_id": "r-other"}
    insert_rows(telling, 1, **anothers)
    for query in ("session_id=s-other", "request_id=r-other", "types=tool_started"):
        with listening(telling, f"?after={before}&{query}") as listener:
            insert_rows(telling, 1, **anothers)
            insert_rows(telling, 1, session_id="s-other", request_id="r-other")
            listener.wait_for(1)
            assert {each.data["key"] for each in listener.heard} == {"ci"}


def test_no_name_breaks_out_of_its_event(telling: Gateway, provider: Upstream) -> None:
    """CVE-2025-64496: what models, tools and upstreams say is data, however it is written."""
    names = [
        "a\r\n\r\nevent: error\r\ndata: {}\r\n\r\n",
        "b\n\ndata: x\n\n",
        "c\rid: 9\r\r",
        "d\u2028e\u0085f",
    ]
    provider.script = whole(200, completion())
    (before,) = ids_in_table(telling)[-1:] or [0]
    for name in names:
        telling.chat({**CHAT, "model": f"scripted/{name}"})
        insert_rows(telling, 1, fields=json.dumps({"tool_name": name, "error": name}))
    query = f"after={before}&types=generation_started,tool_started"
    with listening(telling, f"?{query}") as listener:
        heard = listener.wait_for(2 * len(names))
    models = {each.data["model"] for each in heard if "model" in each.data}
    assert models == {f"scripted/{name}" for name in names}
    told = [each.data for each in heard if "tool_name" in each.data]
    assert [(each["tool_name"], each["error"]) for each in told] == [(n, n) for n in names]
    raw = asked_by_hand(telling, f"GET {PATH}?{query} HTTP/1.0", until=b'"key":"ci"', times=8)
    lines = re.split(rb"\r\n|\n|\r", raw.partition(b"\r\n\r\n")[2])
    assert {line.partition(b":")[0] for line in lines} == {b"retry", b"id", b"event", b"data", b""}
    assert len([line for line in lines if line.startswith(b"data")]) == 8


def asked_by_hand(gateway: Gateway, asked: str, *, until: bytes, times: int) -> bytes:
    """What is answered on a connection, up to the last of so many marks."""
    head = f"{asked}\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n\r\n"
    answer = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(head.encode())
        while answer.count(until) < times and (piece := connection.recv(1 << 16)):
            answer += piece
    return answer


def test_who_speaks_http_1_0_is_told_without_chunks(telling: Gateway) -> None:
    insert_rows(telling, 1)
    (*_, before, _last) = [0, *ids_in_table(telling, "key = 'ci'")]
    query = f"GET {PATH}?after={before} HTTP/1.0"
    head, _, body = asked_by_hand(telling, query, until=b"\n\n", times=2).partition(b"\r\n\r\n")
    assert b"200" in head and b"chunked" not in head
    assert body.startswith(b"retry: 2000\nid: %d\n\nid: " % before)


def test_somebody_elses_client_reads_it(telling: Gateway) -> None:
    key = {"authorization": f"Bearer {KEY}"}
    (before,) = ids_in_table(telling)[-1:] or [0]
    insert_rows(telling, 2, fields='{"tool_name": "get_weather"}')
    with (
        httpx2.Client(headers=key, trust_env=False) as client,
        client.sse(f"{telling.url}{PATH}?after={before}") as source,
    ):
        events = (event for event in source if event.data)
        first = next(events)
        data: Any = first.json()
        assert (first.event, data["tool_name"]) == ("tool_started", "get_weather")
        assert int(next(events).id) > int(first.id) > before


def test_no_text_of_an_event_can_begin_another(telling: Gateway) -> None:
    evil = "x\r\n\r\nid: 1\rdata: {}\n\nevent: error\ndata: y\u2028\u2029\x85\x0b: z\n\n"
    with listening(telling, "?types=tool_started,error") as listener:
        insert_rows(telling, 1, request_id=evil, fields=json.dumps({"tool_name": evil}))
        insert_rows(telling, 1, request_id="next")
        told, following = listener.wait_for(2)
    assert (told.type, told.data["tool_name"], told.data["request_id"]) == (
        "tool_started",
        evil,
        evil,
    )
    assert (following.id, following.data["request_id"]) == (told.id + 1, "next")


def test_no_reader_misses_or_repeats_anything_while_others_insert(
    telling: Gateway, provider: Upstream
) -> None:
    """Both workers' recorders and somebody else's, while readers come and go and go on where they
    were."""
    provider.script = whole(200, completion())
    (before,) = ids_in_table(telling)[-1:] or [0]
    number = 4 * 2 * 60 + 2 * 80 * 3
    found: dict[int, list[int]] = {}

    def read(reader: int) -> None:
        found[reader] = _read_in_parts(telling, before, number)

    threads = [threading.Thread(target=_chat_often, args=(telling, 60)) for _ in range(4)]
    threads += [threading.Thread(target=_insert_often, args=(telling, 80)) for _ in range(2)]
    threads += [threading.Thread(target=read, args=(reader,)) for reader in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wanted = ids_in_table(telling, f"id > {before} AND key = 'ci'")
    assert len(wanted) == number
    assert [found[reader] == wanted for reader in range(4)] == [True] * 4


def _chat_often(gateway: Gateway, times: int) -> None:
    for _ in range(times):
        gateway.chat(CHAT)


def _insert_often(gateway: Gateway, times: int) -> None:
    for _ in range(times):
        insert_rows(gateway, 3)
        insert_rows(gateway, 2, key="other")


def _read_in_parts(gateway: Gateway, after: int, number: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < number:
        last = str(ids[-1] if ids else after)
        with listening(gateway, last_event_id=last) as listener:
            listener.wait_for(min(50, number - len(ids)), seconds=20)
        ids += listener.ids
    return ids


def test_streams_end_as_soon_as_the_server_stops_whether_they_are_read_or_not(
    provider: Upstream, tmp_path: Any, spare_database_url: str
) -> None:
    gateway = Gateway(tmp_path, spare_database_url)
    gateway.apply(configured(provider))
    gateway.start()
    with ExitStack() as stack:
        stack.enter_context(sleeping(gateway))
        listeners = [stack.enter_context(listening(gateway, "?types=error")) for _ in range(200)]
        assert {listener.status for listener in listeners} == {200}
        for _ in range(4):
            insert_rows(gateway, 1000, fields=json.dumps({"error": "x" * 2000}))
        time.sleep(2)  # until no buffer takes more
        asked = time.monotonic()
        gateway.stop()
        assert time.monotonic() - asked < 5
        wait_until(lambda: all(listener.has_ended for listener in listeners), seconds=1)
        assert not any(listener.heard for listener in listeners)
    assert "ERROR" not in gateway.log
