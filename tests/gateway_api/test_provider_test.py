"""`POST /v1/providers/test`: asks where its caller points (CVE-2026-42271's kind)."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from django.middleware.csrf import get_token
from django.test import Client, RequestFactory

from gateway_api.native.provider_test import ERROR_KINDS
from providers.models import Deployment, Provider
from tests.gateway_api.conftest import CANARY, Ask, make_key, make_provider
from tests.upstream import Asked, Peer, Upstream, completion, scripted_upstream, silence, whole

PATH = "/v1/providers/test"
OWN = "sk-callers-own-key"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


class Listener:
    """Keeps the headers of every question, listings too, and answers as scripted."""

    def __init__(self, upstream: Upstream, status: int = 200, body: bytes | None = None) -> None:
        self.seen: list[Asked] = []
        self.status = status
        self.body = json.dumps({"data": [{"id": "m1"}]}).encode() if body is None else body
        self.headers: dict[str, str] = {}
        upstream.listing = self.play

    async def play(self, asked: Asked, peer: Peer) -> None:
        self.seen.append(asked)
        peer.answer(self.status, self.body, **self.headers)


def post(ask: Ask, body: Any, *, key: str | None = "admin") -> httpx2.Response:
    return ask("POST", PATH, body, key=key)


def told(ask: Ask, **body: Any) -> dict[str, Any]:
    answer = post(ask, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(ask: Ask, param: str | None, **body: Any) -> str:
    answer = post(ask, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    return str(answer.json()["error"]["message"])


# --- what it tells ------------------------------------------------------------------------------


def test_a_configured_provider_is_tested_with_what_is_stored(ask: Ask, upstream: Upstream) -> None:
    make_provider("lab", upstream.base_url)
    listener = Listener(upstream)
    report = told(ask, name="lab")
    assert 0 <= report.pop("latency_ms") < 5000
    assert report == {"status": "success", "provider": "lab", "model": None, "models": ["m1"]}
    assert [asked.headers["authorization"] for asked in listener.seen] == [f"Bearer {CANARY}"]


def test_a_model_that_is_named_is_asked(ask: Ask, upstream: Upstream) -> None:
    make_provider("lab", upstream.base_url)
    upstream.script = whole(200, completion("Hi!"))
    report = told(ask, name="lab", model="gpt-4o")
    assert (report["status"], report["model"], report["response"]) == ("success", "gpt-4o", "Hi!")
    (asked,) = upstream.asked
    assert asked.json()["max_tokens"] == 1


def test_a_kind_is_tested_with_what_the_caller_gives(ask: Ask, upstream: Upstream) -> None:
    listener = Listener(upstream)
    report = told(ask, name="openai", base_url=upstream.base_url, api_key=OWN)
    assert (report["status"], report["provider"], report["models"]) == ("success", "openai", ["m1"])
    assert [asked.headers["authorization"] for asked in listener.seen] == [f"Bearer {OWN}"]


def test_a_callers_key_takes_the_place_of_the_stored_one(ask: Ask, upstream: Upstream) -> None:
    make_provider("lab", upstream.base_url)
    listener = Listener(upstream)
    told(ask, name="lab", api_key=OWN)
    assert [asked.headers["authorization"] for asked in listener.seen] == [f"Bearer {OWN}"]


def test_a_provider_that_only_lacks_its_key_is_tested_with_the_callers(
    ask: Ask, upstream: Upstream
) -> None:
    make_provider("mine", upstream.base_url, kind="openai", api_key="")
    listener = Listener(upstream)
    report = told(ask, name="mine")
    assert report["error"]["kind"] == "auth"
    assert told(ask, name="mine", api_key=OWN)["status"] == "success"
    assert len(listener.seen) == 1


def test_a_provider_whose_address_cannot_be_read_gets_no_callers_key(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kind's own address is another server than the one that was meant."""
    monkeypatch.setenv("LAB_URL_FILE", "/nowhere/to/be/found")
    make_provider("lab", "", kind="openai", api_key="", base_url_env="LAB_URL")
    report = told(ask, name="lab", api_key=OWN)
    assert report["error"]["kind"] == "protocol"
    assert "cannot be read" in report["error"]["message"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "auth"), (403, "auth"), (404, "not_found"), (429, "rate_limit"), (500, "protocol")]
    + [(302, "protocol"), (504, "timeout")],
)
def test_an_upstreams_refusal_is_an_answer_with_its_kind(
    ask: Ask, upstream: Upstream, status: int, kind: str
) -> None:
    make_provider("lab", upstream.base_url)
    Listener(upstream, status, json.dumps({"error": {"message": f"no {CANARY}"}}).encode())
    report = told(ask, name="lab")
    assert (report["status"], report["error"]["kind"]) == ("error", kind)
    assert CANARY not in report["error"]["message"]


def test_every_other_failure_has_its_kind(ask: Ask, upstream: Upstream) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    upstream.listing = silence
    for base_url, kind in (
        (closed, "network"),
        ("http://no-such-host.invalid/v1", "dns"),
        (upstream.base_url, "timeout"),
    ):
        report = told(ask, name="openai-compatible", base_url=base_url, timeout=0.5)
        assert (report["status"], report["error"]["kind"]) == ("error", kind), base_url
        assert base_url not in report["error"]["message"]
        assert kind in ERROR_KINDS


def test_a_kind_this_version_cannot_speak_to_says_so(ask: Ask, upstream: Upstream) -> None:
    make_provider("strange", upstream.base_url, kind="smoke-signals")
    report = told(ask, name="strange", api_key=OWN)
    assert report["error"]["kind"] == "protocol"


def test_nothing_is_stored(ask: Ask, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    make_provider("lab", upstream.base_url)
    before = list(Provider.objects.values())
    with caplog.at_level(logging.DEBUG):
        told(ask, name="lab", api_key=OWN, model="gpt-4o", timeout=0.3)
        told(ask, name="openai", api_key=OWN, base_url=upstream.base_url)
    assert list(Provider.objects.values()) == before
    assert not Deployment.objects.exists()
    assert OWN not in caplog.text
    assert CANARY not in caplog.text


# --- who may ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "status"), [("user", 403), (None, 401), ("admin", 200)])
def test_only_an_administrator_may_test(
    ask: Ask, upstream: Upstream, key: str | None, status: int
) -> None:
    make_provider("lab", upstream.base_url)
    listener = Listener(upstream)
    answer = post(ask, {"name": "lab"}, key=key)
    assert answer.status_code == status
    assert len(listener.seen) == (status == 200)
    if status != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("with_token", "status"), [(True, 200), (False, 403)])
def test_staff_may_test_from_a_page_of_ours_only(
    ask: Ask, upstream: Upstream, admin_user: Any, *, with_token: bool, status: int
) -> None:
    browser = Client()
    browser.force_login(admin_user)
    page = RequestFactory().get("/")
    token = get_token(page)
    session = browser.cookies["sessionid"].value
    headers = {"cookie": f"sessionid={session}; csrftoken={page.META['CSRF_COOKIE']}"}
    if with_token:
        headers["x-csrftoken"] = token
    make_provider("lab", upstream.base_url)
    answer = ask("POST", PATH, {"name": "lab"}, key=None, **headers)
    assert answer.status_code == status, answer.text
    assert upstream.listings == (1 if with_token else 0)


def test_who_may_not_test_is_not_told_what_is_wrong_with_the_request(ask: Ask) -> None:
    for body in (b"{", {"name": "no-such"}, {}):
        assert post(ask, body, key="user").status_code == 403


def test_an_admin_key_that_may_use_some_models_only_may_test(ask: Ask, upstream: Upstream) -> None:
    make_key("narrow-admin", admin=True, allowed_models=["x/*"])
    make_provider("lab", upstream.base_url)
    assert post(ask, {"name": "lab"}, key="narrow-admin").status_code == 200


# --- stored credentials never meet a caller's address (M43) -------------------------------------


def all_sent(listener: Listener) -> str:
    return "\n".join(f"{each.path} {each.headers} {each.body!r}" for each in listener.seen)


def test_a_callers_address_never_gets_a_stored_key(ask: Ask, upstream: Upstream) -> None:
    """CVE-2024-6587, BerriAI/litellm#37053."""
    with scripted_upstream(silence) as elsewhere:
        stolen = Listener(elsewhere)
        make_provider("lab", upstream.base_url)
        told(ask, name="lab", base_url=elsewhere.base_url)
        told(ask, name="lab", base_url=upstream.base_url)
        told(ask, name="openai-compatible", base_url=elsewhere.base_url, model="m1", timeout=0.2)
        assert len(stolen.seen) == 2
        assert "authorization" not in stolen.seen[0].headers
        assert CANARY not in all_sent(stolen)
        assert CANARY not in str([asked.headers for asked in elsewhere.asked])


def test_a_callers_address_never_gets_a_key_of_the_environment(
    ask: Ask, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    make_provider("openai", "", kind="openai", api_key="", api_key_env="OPENAI_API_KEY")
    listener = Listener(upstream)
    report = told(ask, name="openai", base_url=upstream.base_url)
    assert report["error"] == {"kind": "auth", "message": "No API key is set."}
    assert listener.seen == []
    told(ask, name="openai", base_url=upstream.base_url, api_key=OWN)
    assert CANARY not in all_sent(listener)


def test_a_callers_address_never_gets_a_providers_options(ask: Ask, upstream: Upstream) -> None:
    make_provider("demo", "", kind="fake", api_key="", options={"models": {"private": {}}})
    assert told(ask, name="demo")["models"] == ["private"]
    assert told(ask, name="demo", base_url=upstream.base_url)["models"] == ["echo"]


# --- where it may lead ----------------------------------------------------------------------------

FORBIDDEN = [
    "http://169.254.169.254/latest/meta-data",
    "http://[fd00:ec2::254]/v1",
    "http://100.100.100.200/v1",
    "http://168.63.129.16/v1",
    "http://0.0.0.0:{port}/v1",
    "http://[::]:{port}/v1",
    "http://[::ffff:127.0.0.1]:{port}/v1",
    "http://[::ffff:169.254.169.254]/v1",
    "http://[64:ff9b::a9fe:a9fe]/v1",
    "http://10.0.0.1/v1",
    "http://192.168.1.1:{port}/v1",
    "http://2130706433:{port}/v1",
    "http://0x7f.1:{port}/v1",
    "http://0177.0.0.1:{port}/v1",
    "http://127.1:{port}/v1",
    "http://0:{port}/v1",
]


@pytest.mark.parametrize("template", FORBIDDEN)
def test_an_address_that_is_closed_is_not_connected_to(
    ask: Ask, upstream: Upstream, template: str
) -> None:
    listener = Listener(upstream)
    url = template.format(port=upstream.port)
    started = time.monotonic()
    answer = post(ask, {"name": "openai", "base_url": url, "api_key": OWN, "timeout": 2})
    assert time.monotonic() - started < 1.5
    assert listener.seen == []
    if answer.status_code != 400:
        assert answer.json()["error"]["kind"] == "network"
        assert answer.json()["models"] == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9/v1",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_INFO",
        "unix:///var/run/docker.sock",
        "http://",
        "http://user:pw@127.0.0.1/v1",
        "http://127.0.0.1/v1?key=1",
        "http://127.0.0.1/v1#x",
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:0/v1",
        "http://127.0.0.1/v1\r\nX-Injected: 1",
        "http://127.0.0.1/a b",
        "http://127.0.0.1\t/v1",
        "http://127.0.0.1/\u0000",
        "http://ⓛocalhost/v1",
        "http://127.0.0.1/" + "a" * 500,
        7,
        ["http://127.0.0.1/v1"],
        {"url": "http://127.0.0.1/v1"},
    ],
)
def test_what_is_no_plain_url_is_refused(ask: Ask, url: Any) -> None:
    refused(ask, "base_url", name="openai", base_url=url, api_key=OWN)


@pytest.mark.parametrize(
    "url", ["http://a@b@127.0.0.1/v1", "http://127.0.0.1\\@evil.example/v1", "http://a..b/v1"]
)
def test_a_url_two_readers_may_read_differently_leads_nowhere(ask: Ask, url: str) -> None:
    """CVE-2026-45400."""
    answer = post(ask, {"name": "openai", "base_url": url, "api_key": OWN, "timeout": 1})
    assert answer.status_code == 400 or answer.json()["error"]["kind"] in ("network", "dns")


def test_a_redirect_is_not_followed(ask: Ask, upstream: Upstream) -> None:
    """CVE-2025-62155."""
    with scripted_upstream(silence) as inside:
        hidden = Listener(inside)
        listener = Listener(upstream, 302, b"")
        listener.headers = {"location": f"{inside.base_url}/models"}
        report = told(ask, name="openai", base_url=upstream.base_url, api_key=OWN)
        assert (report["status"], report["error"]["kind"]) == ("error", "protocol")
        assert str(inside.port) not in json.dumps(report)
        assert hidden.seen == []


def test_a_name_is_looked_up_once_and_every_address_of_it_checked(
    ask: Ask, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look-up could be answered with another address (DNS rebinding)."""
    answers = [["93.184.216.34", "169.254.169.254"], ["127.0.0.1"], ["169.254.169.254"]]
    asked_for: list[str] = []

    async def getaddrinfo(self: Any, host: str, port: Any, **_: Any) -> list[Any]:
        asked_for.append(host)
        found = answers[min(len(asked_for), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    listener = Listener(upstream)
    url = f"http://rebinding.example:{upstream.port}/v1"
    report = told(ask, name="openai", base_url=url, api_key=OWN)
    assert (report["status"], report["error"]["kind"]) == ("error", "network")
    assert listener.seen == []
    upstream.script = whole(200, completion("Hi!"))
    report = told(ask, name="openai", base_url=url, api_key=OWN, model="m1")
    assert (report["status"], asked_for) == ("success", ["rebinding.example"] * 2)


def test_a_name_unknown_here_is_not_left_to_a_proxy(
    ask: Ask, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may know hosts inside that the guard would refuse."""
    listener = Listener(upstream)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{upstream.port}")
    report = told(ask, name="openai", base_url="http://inside.invalid/v1", api_key=OWN)
    assert report["error"]["kind"] == "dns"
    assert listener.seen == []


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"<html>", b'{"data": 5}', b"", b"[" * 100_000, b"\xff\xfe", b'{"data": [{"id": 5}]}'],
)
def test_an_answer_that_is_none_is_a_protocol_error(
    ask: Ask, upstream: Upstream, body: bytes
) -> None:
    Listener(upstream, body=body)
    report = told(ask, name="openai", base_url=upstream.base_url, api_key=OWN)
    assert (report["status"], report["error"]["kind"]) == ("error", "protocol")


def test_an_endless_answer_is_cut_off(ask: Ask, upstream: Upstream) -> None:
    async def flood(asked: Asked, peer: Peer) -> None:
        peer.begin(content_type="application/json")
        for _ in range(40):
            peer.piece(b" " * (1 << 20))
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    upstream.listing = flood
    report = told(ask, name="openai", base_url=upstream.base_url, api_key=OWN, timeout=20)
    assert report["error"] == {"kind": "protocol", "message": "The upstream's answer is too large."}


def test_an_answer_that_trickles_is_cut_off(ask: Ask, upstream: Upstream) -> None:
    async def trickle(asked: Asked, peer: Peer) -> None:
        peer.begin(content_type="application/json")
        while True:
            peer.piece(b" ")
            await asyncio.sleep(0.05)

    upstream.listing = trickle
    started = time.monotonic()
    report = told(ask, name="openai", base_url=upstream.base_url, api_key=OWN, timeout=0.5)
    assert time.monotonic() - started < 1.5
    assert report["error"]["kind"] == "timeout"
    assert 400 <= report["latency_ms"] < 1500


def test_a_long_list_and_long_words_are_cut(ask: Ask, upstream: Upstream) -> None:
    listener = Listener(upstream)
    listener.body = json.dumps({"data": [{"id": f"m{n}"} for n in range(5000)]}).encode()
    report = told(ask, name="openai", base_url=upstream.base_url, api_key=OWN)
    assert len(report["models"]) == 1000
    listener.status, listener.body = 400, json.dumps({"error": {"message": "x" * 9999}}).encode()
    report = told(ask, name="openai", base_url=upstream.base_url, api_key=OWN)
    assert len(report["error"]["message"]) == 300


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a b",
        "a\r\nX-Injected: 1",
        "a\nHost: evil",
        "a\u0000b",
        "ключ",
        "k" * 4097,
        7,
        True,
        ["k"],
    ],
)
def test_a_key_no_header_can_carry_is_refused(ask: Ask, upstream: Upstream, key: Any) -> None:
    make_provider("lab", upstream.base_url)
    listener = Listener(upstream)
    message = refused(ask, "api_key", name="lab", api_key=key)
    assert str(key) not in message or key in ("", 7)
    assert listener.seen == []


@pytest.mark.parametrize("name", ["", " lab", "no\nname", "x" * 201, 5, [], {}, True])
def test_a_name_that_is_none_is_refused(ask: Ask, name: Any) -> None:
    refused(ask, "name", name=name)


def test_a_name_that_is_neither_provider_nor_kind_is_refused(ask: Ask) -> None:
    assert "neither a provider nor one of the kinds" in refused(ask, "name", name="nobody")


def test_without_a_name_nothing_is_tested(ask: Ask) -> None:
    refused(ask, "name")
    refused(ask, "name", name=None)


def test_a_kind_without_an_address_of_its_own_needs_one(ask: Ask) -> None:
    refused(ask, "base_url", name="openai-compatible", api_key=OWN)


@pytest.mark.parametrize("timeout", [0, -1, 60.1, 1e9, 10**300, "5", True, [], {}])
def test_a_timeout_out_of_bounds_is_refused(ask: Ask, timeout: Any) -> None:
    refused(ask, "timeout", name="openai", timeout=timeout)


@pytest.mark.parametrize("model", ["", " m", "m\n", "m\u0000", "m" * 201, 5, []])
def test_a_model_that_is_none_is_refused(ask: Ask, model: Any) -> None:
    refused(ask, "model", name="openai", model=model)


@pytest.mark.parametrize("field", ["url", "api_base", "command", "args", "env", "headers", "kind"])
def test_a_field_that_does_not_exist_is_refused(ask: Ask, field: str) -> None:
    refused(ask, field, name="openai", **{field: "x"})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"lab"', 400),
        (b'{"name": NaN}', 400),
        (b'{"name": "lab", "name": "openai"}', 400),
        (b'{"name": "\\ud800"}', 400),
    ],
)
def test_a_body_that_is_no_object_is_refused(ask: Ask, body: bytes, status: int) -> None:
    answer = post(ask, body)
    assert answer.status_code == status, answer.text


def test_null_is_as_good_as_absent(ask: Ask, upstream: Upstream) -> None:
    make_provider("lab", upstream.base_url)
    nulls = dict.fromkeys(("api_key", "base_url", "model", "timeout"))
    assert told(ask, name="lab", **nulls)["status"] == "success"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_it_is_a_post(ask: Ask, method: str) -> None:
    answer = ask(method, PATH, key="admin")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
