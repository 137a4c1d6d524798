"""Large forms on their way through, and callers who leave in the middle of one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from gateway_site.asgi_handler import MAX_DRAIN_BYTES
from tests.gateway import KEY, Gateway, running_gateway, wait_until

pytestmark = pytest.mark.once

MIB = 1 << 20
SIZE = 150 * MIB
ANSWER = json.dumps({"text": "Hello."}).encode()


class Sink:
    """An upstream that counts what it is sent, keeps none of it, and answers at the end."""

    def __init__(self) -> None:
        self.received = 0
        self.ends: list[str] = []
        self.head = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._take, args=[connection], daemon=True).start()

    def _take(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            head, _, body = self._until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
            if head.startswith(b"GET"):
                listing = b'{"object":"list","data":[]}'
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(listing), listing)
                )
                return
            self.head = head
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            left = size - len(body)
            self.received += len(body)
            while left:
                piece = connection.recv(min(left, MIB))
                if not piece:
                    self.ends.append("broken")
                    return
                left -= len(piece)
                self.received += len(piece)
            self.ends.append("whole")
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(ANSWER), ANSWER)
            )

    @staticmethod
    def _until(connection: socket.socket, mark: bytes) -> bytes:
        read = b""
        while mark not in read:
            piece = connection.recv(65536)
            if not piece:
                raise OSError
            read += piece
        return read


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def gateway(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("uploads")
    url = f"sqlite:///{folder / 'spare.sqlite3'}"
    with running_gateway(folder, url, sink.base_url) as gateway:
        yield gateway


def part(name: str, more: bytes = b"") -> bytes:
    return b'--form\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n' % (name.encode(), more)


MODEL = part("model") + b"scripted/whisper-1\r\n"
FILE = part("file", b'; filename="a.wav"')
END = b"\r\n--form--\r\n"


def head(gateway: Gateway, path: str, *, length: int, x_request_id: str = "upload") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: 127.0.0.1:{gateway.port}",
        f"authorization: Bearer {KEY}",
        f"x-request-id: {x_request_id}",
        "content-type: multipart/form-data; boundary=form",
        f"content-length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def sending(
    gateway: Gateway, before: bytes, after: bytes, request_id: str
) -> Iterator[socket.socket]:
    """A connection on which the head of an upload of a file of SIZE zeros has been sent."""
    length = len(before) + SIZE + len(after)
    started = head(gateway, "/v1/audio/transcriptions", length=length, x_request_id=request_id)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(started + before)
        yield connection


@pytest.mark.parametrize(
    ("before", "after"),
    [(MODEL + FILE, END), (FILE, b"\r\n" + MODEL + END[2:])],
    ids=["model first", "model last"],
)
def test_a_large_form_does_not_fill_the_memory(
    gateway: Gateway, sink: Sink, before: bytes, after: bytes, request: pytest.FixtureRequest
) -> None:
    sink.received = 0
    sink.ends.clear()
    started = gateway.resident_kib()
    most = started
    request_id = f"upload-{len(before)}"
    with sending(gateway, before, after, request_id) as connection:
        for _ in range(SIZE // MIB):
            connection.sendall(bytes(MIB))
            most = max(most, gateway.resident_kib())
        connection.sendall(after)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert sink.ends == ["whole"]
    assert sink.received == len(before) + SIZE + len(after) - len("scripted/")
    assert most - started < 24 * 1024
    row = gateway.usage_row(request_id)
    assert (row["status"], row["endpoint"]) == ("success", "audio.transcriptions")


def test_a_form_goes_on_while_it_comes(gateway: Gateway, sink: Sink) -> None:
    sink.received = 0
    with sending(gateway, MODEL + FILE, END, "upload-early") as connection:
        connection.sendall(bytes(8 * MIB))
        wait_until(lambda: sink.received > 7 * MIB, seconds=5)


@pytest.mark.parametrize("before", [MODEL + FILE, FILE], ids=["model first", "model last"])
def test_a_caller_who_leaves_in_the_middle_ends_it_upstream(
    gateway: Gateway, sink: Sink, before: bytes
) -> None:
    sink.ends.clear()
    request_id = f"upload-left-{len(before)}"
    with sending(gateway, before, END, request_id) as connection:
        connection.sendall(bytes(8 * MIB))
    if before.startswith(MODEL):
        wait_until(lambda: sink.ends == ["broken"], seconds=3)
        assert gateway.usage_row(request_id)["status"] == "aborted"
    assert gateway.call("GET", "/readyz").status == 200
    wait_until(lambda: gateway.open_entries() == set(), seconds=5)


def test_a_form_that_is_declared_too_large_is_413_to_a_sender_who_goes_on(
    gateway: Gateway,
) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(head(gateway, "/v1/files?provider=scripted", length=1 << 40))
        for _ in range(MAX_DRAIN_BYTES // MIB):
            connection.sendall(bytes(MIB))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_temporary_files_are_gone(gateway: Gateway) -> None:
    opened = Path(f"/proc/{gateway.pid}/fd")
    if not opened.exists():
        pytest.skip("there is no /proc here")
    wait_until(
        lambda: not [each for each in opened.iterdir() if "deleted" in str(each.readlink())],
        seconds=5,
    )
