"""Who may go on reading a stream that is open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from tests.conftest import spare_database
from tests.events_app.stage import Listener, admin_password, insert_rows, listening
from tests.gateway import Gateway, configuration, wait_until

WITHIN_S = 5.0
NAMES = ("revoked", "expired", "deleted", "rotated", "demoted", "unharmed")


def secret(name: str) -> str:
    return f"gw-test-{name}-0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("guarded")
    found = configuration("http://127.0.0.1:9")
    found["keys"] += [
        {"name": name, "secret": secret(name), "admin": name == "demoted"} for name in NAMES
    ]
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(found)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def change(gateway: Gateway, name: str, assignment: str) -> None:
    gateway.execute(f"UPDATE keys_virtualkey SET {assignment} WHERE name = '{name}'")


def assert_ends(listener: Listener, since: float) -> None:
    wait_until(lambda: listener.has_ended, seconds=WITHIN_S + 1)
    assert time.monotonic() - since < WITHIN_S
    last = listener.heard[-1]
    assert (last.type, last.id) == ("error", 0)
    assert last.data["error"]["code"] == "invalid_api_key"


def test_the_stream_of_a_key_that_ends_ends_with_it(guarded: Gateway) -> None:
    """All at once, because each takes seconds; and a key that nothing happened to reads on."""
    with (
        listening(guarded, key=secret("revoked")) as revoked,
        listening(guarded, key=secret("expired")) as expired,
        listening(guarded, key=secret("deleted")) as deleted,
        listening(guarded, key=secret("rotated")) as rotated,
        listening(guarded, key=secret("unharmed")) as unharmed,
    ):
        insert_rows(guarded, 1, key="revoked")
        revoked.wait_for(1)
        change(guarded, "revoked", "enabled = false")
        change(guarded, "expired", "expires_at = '2020-01-01 00:00:00'")
        change(guarded, "rotated", "secret_sha256 = 'another'")
        guarded.execute("DELETE FROM keys_virtualkey WHERE name = 'deleted'")
        since = time.monotonic()
        for listener in (revoked, expired, deleted, rotated):
            assert_ends(listener, since)
        insert_rows(guarded, 1, key="unharmed")
        unharmed.wait_for(1)
        assert not unharmed.has_ended


def test_an_admin_who_is_one_no_longer_is_told_nothing_of_others(guarded: Gateway) -> None:
    with listening(guarded, key=secret("demoted")) as listener:
        insert_rows(guarded, 1, key="ci", request_id="before")
        listener.wait_for(1)
        change(guarded, "demoted", "admin = false")
        wait_until(lambda: _others_stop(guarded, listener), seconds=WITHIN_S)
        insert_rows(guarded, 1, key="ci", request_id="after")
        insert_rows(guarded, 1, key="demoted", request_id="own")
        wait_until(lambda: listener.heard[-1].data["request_id"] == "own", seconds=5)
    assert "after" not in {each.data["request_id"] for each in listener.heard}


def _others_stop(gateway: Gateway, listener: Listener) -> bool:
    """Whether somebody else's event is told no longer, half a second after it happened."""
    told = len(listener.heard)
    insert_rows(gateway, 1, key="ci", request_id="meanwhile")
    time.sleep(0.5)
    return len(listener.heard) == told


def test_staff_listen_with_their_session_until_they_sign_out_or_are_staff_no_longer(
    guarded: Gateway,
) -> None:
    password = admin_password(guarded)
    with (
        signed_in(guarded, password) as browser,
        signed_in(guarded, password) as other,
        listening(guarded, key=None, cookie=session_of(browser)) as leaving,
        listening(guarded, key=None, cookie=session_of(other)) as staying,
    ):
        foreign = {"cookie": session_of(other), "origin": "https://evil.example"}
        with listening(guarded, key=None, **foreign) as listener:
            assert listener.status == 403
        insert_rows(guarded, 1, key="ci")
        leaving.wait_for(1)
        token = browser.cookies["csrftoken"]
        cookie = session_of(browser)
        browser.post("/admin/logout/", data={"csrfmiddlewaretoken": token})
        assert_ends(leaving, time.monotonic())
        with listening(guarded, key=None, cookie=cookie) as listener:
            assert listener.status == 401
        insert_rows(guarded, 1, key="ci")
        staying.wait_for(2)
        guarded.execute("UPDATE auth_user SET is_staff = false")
        assert_ends(staying, time.monotonic())


@contextmanager
def signed_in(gateway: Gateway, password: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gateway.url, trust_env=False) as browser:
        browser.get("/admin/login/")
        token = browser.cookies["csrftoken"]
        form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token}
        assert browser.post("/admin/login/", data=form).status_code == 302
        yield browser


def session_of(browser: httpx2.Client) -> str:
    return f"sessionid={browser.cookies['sessionid']}"
