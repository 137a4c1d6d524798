"""Readers of the event stream that do not read: they cost little, and are told what they missed."""

from __future__ import annotations

import json
import select
import socket
import time
from contextlib import ExitStack

from tests.events_app.stage import ids_in_table, insert_rows, sleeping
from tests.gateway import Gateway, wait_until

READERS, BURSTS, ROWS = 20, 12, 1000
PADDING = json.dumps({"error": "x" * 2000})
MAX_GROWTH_KIB = 100 * 1024
"""What they are owed is 20 times 26 MB, of which the kernel takes up to 4 MB for each."""
WITHIN_S = 5.0


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    connection.settimeout(10)
    received = bytearray()
    deadline = time.monotonic() + 30
    while mark not in received[-(1 << 17) :]:
        assert time.monotonic() < deadline, (len(received), bytes(received[-300:]))
        piece = connection.recv(1 << 16)
        assert piece, bytes(received[-300:])
        received += piece
    return bytes(received)


def test_a_reader_that_sleeps_is_bounded_and_told_how_many_it_missed(served: Gateway) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(sleeping(served))
        received = read_until(first, b"id: ")
        before = served.resident_kib()
        for _ in range(READERS):
            stack.enter_context(sleeping(served))
        for _ in range(BURSTS):
            insert_rows(served, ROWS, fields=PADDING)
            time.sleep(0.2)
        time.sleep(1)
        grown = served.resident_kib() - before
        received += read_until(first, b"event: dropped")
        insert_rows(served, 1, request_id="the last")
        received += read_until(first, b"the last")
    assert grown < MAX_GROWTH_KIB
    ids, counts = told_in(received)
    wanted = ids_in_table(served, "key = 'ci'")
    assert len(counts) == 1
    assert len(ids) + counts[0] == len(wanted)
    assert ids == wanted[: len(ids) - 1] + wanted[-1:]


def test_the_stream_of_a_revoked_key_ends_though_its_reader_never_reads(served: Gateway) -> None:
    with sleeping(served) as reader:
        read_until(reader, b"id: ")
        for _ in range(4):
            insert_rows(served, ROWS, fields=PADDING)
        time.sleep(2)  # until no buffer between here and there takes more
        assert not is_cut(reader)
        served.execute("UPDATE keys_virtualkey SET enabled = false WHERE name = 'ci'")
        try:
            wait_until(lambda: is_cut(reader), seconds=WITHIN_S)
        finally:
            served.execute("UPDATE keys_virtualkey SET enabled = true WHERE name = 'ci'")
    assert "Traceback" not in served.log


def is_cut(connection: socket.socket) -> bool:
    """Whether the other side closed the connection; without reading from it."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


def told_in(received: bytes) -> tuple[list[int], list[int]]:
    """The ids of the events in the stream, and the counts of its notices."""
    ids, counts = [], []
    lines = [line for line in received.split(b"\n") if line]
    for line, after in zip(lines, [*lines[1:], b""], strict=True):
        if line.startswith(b"id: ") and after.startswith(b"event: "):
            ids.append(int(line[4:]))
        if b'"type":"dropped"' in line:
            counts.append(json.loads(line.removeprefix(b"data: "))["count"])
    return ids, counts
