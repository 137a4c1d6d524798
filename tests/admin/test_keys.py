"""Virtual keys: a secret is shown once, and nobody makes a key that may more than he does."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from keys.models import VirtualKey, digest
from tests.admin.conftest import ClientWith, make_key

LIST = "/admin/keys/virtualkey/"
KEY_RIGHTS = ("keys.view_virtualkey", "keys.add_virtualkey", "keys.change_virtualkey")


def key_form(**changes: str) -> dict[str, str]:
    posted = {
        "name": "ci",
        "enabled": "on",
        "allowed_models": "",
        "expires_at_0": "",
        "expires_at_1": "",
        "rpm": "",
        "tpm": "",
        "max_parallel": "",
        "budget_usd": "",
        "budget_period": "month",
    }
    return posted | changes


def add(client: Client, **changes: str) -> Any:
    return client.post(f"{LIST}add/", key_form(**changes))


def shown_secret(response: Any) -> str:
    found = re.search(r"<code[^>]*>(gw-[\w-]{43})</code>", response.content.decode())
    assert found is not None
    return found.group(1)


def test_the_secret_of_a_new_key_is_in_the_answer(admin_client: Client) -> None:
    response = add(admin_client)
    assert response.status_code == 200
    assert VirtualKey.objects.get().secret_sha256 == digest(shown_secret(response))


@pytest.mark.parametrize("button", ["_save", "_continue", "_addanother"])
def test_whichever_button_was_pressed_the_secret_is_shown(
    admin_client: Client, button: str
) -> None:
    assert shown_secret(add(admin_client, **{button: "1"}))


def test_the_answer_with_the_secret_is_kept_by_no_cache(admin_client: Client) -> None:
    assert "no-store" in add(admin_client)["cache-control"]


def test_the_secret_is_nowhere_else(admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """M42: no cookie, session, history, log line, admin log entry, and no later page."""
    caplog.set_level(logging.DEBUG)
    response = add(admin_client)
    secret, key = shown_secret(response), VirtualKey.objects.get()
    kept = [cookie.OutputString() for cookie in admin_client.cookies.values()]
    kept += [str(value) for _, value in response.items()]
    kept += [str(session.get_decoded()) for session in Session.objects.all()]
    kept += [str(row) for row in (*VirtualKey.objects.values(), *key.history.values())]
    kept += [f"{entry.object_repr} {entry.change_message}" for entry in LogEntry.objects.all()]
    for path in ("", f"{key.pk}/change/", f"{key.pk}/history/", f"{key.pk}/rotate-secret/"):
        kept.append(admin_client.get(LIST + path).content.decode())
    kept.append(caplog.text)
    assert len(kept) > 8
    assert not [text for text in kept if secret in text]


def test_the_digest_is_on_no_page(admin_client: Client, key: VirtualKey) -> None:
    """GHSA-69x8: a hash is a secret too."""
    version = key.history.latest().pk
    paths = ["", f"{key.pk}/change/", f"{key.pk}/history/", f"{key.pk}/history/{version}/"]
    pages = [admin_client.get(LIST + path) for path in [*paths, f"{key.pk}/delete/"]]
    assert {page.status_code for page in pages} == {200}
    assert not [page for page in pages if key.secret_sha256 in page.content.decode()]


def test_a_digest_cannot_be_posted(admin_client: Client, key: VirtualKey) -> None:
    """CVE-2026-47102: columns are guarded, not rows."""
    before = key.secret_sha256
    admin_client.post(f"{LIST}{key.pk}/change/", key_form(secret_sha256="0" * 64, hint="mine"))
    key.refresh_from_db()
    assert (key.secret_sha256, key.hint == "mine") == (before, False)


def test_a_name_is_escaped(admin_client: Client, db: None) -> None:
    key = make_key("harmless")
    VirtualKey.objects.update(name="<script>alert(1)</script>")
    for path in ("", f"{key.pk}/change/", f"{key.pk}/rotate-secret/"):
        assert "<script>alert" not in admin_client.get(LIST + path).content.decode()


# --- limits -----------------------------------------------------------------------------------


def test_models_are_one_glob_a_line(admin_client: Client) -> None:
    add(admin_client, allowed_models=" smart \r\n\r\nopenai/*\r\n")
    assert VirtualKey.objects.get().allowed_models == ["smart", "openai/*"]


def test_no_globs_mean_everything(admin_client: Client) -> None:
    add(admin_client, allowed_models="\n  \n")
    assert VirtualKey.objects.get().allowed_models is None


def test_globs_come_back_one_a_line(admin_client: Client, key: VirtualKey) -> None:
    VirtualKey.objects.update(allowed_models=["smart", "openai/*"])
    page = admin_client.get(f"{LIST}{key.pk}/change/").content.decode()
    assert "smart\nopenai/*</textarea>" in page


def test_unchanged_globs_are_no_change(admin_client: Client, key: VirtualKey) -> None:
    VirtualKey.objects.update(allowed_models=["smart"])
    admin_client.post(f"{LIST}{key.pk}/change/", key_form(allowed_models="smart\r\n"))
    assert LogEntry.objects.get().change_message == "[]"


def test_an_empty_budget_is_unlimited_and_0_is_nothing(admin_client: Client) -> None:
    """M15."""
    add(admin_client, name="unlimited", budget_usd="")
    add(admin_client, name="nothing", budget_usd="0")
    budgets = dict(VirtualKey.objects.values_list("name", "budget_usd"))
    assert budgets == {"unlimited": None, "nothing": 0}
    page = admin_client.get(LIST).content.decode()
    assert "0 USD/month" in page


@pytest.mark.parametrize("limit", ["rpm", "tpm", "max_parallel"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_limit_is_a_positive_number(admin_client: Client, limit: str, value: str) -> None:
    response = add(admin_client, **{limit: value})
    assert limit in response.context["adminform"].form.errors
    assert not VirtualKey.objects.exists()


def test_the_list_shows_whether_a_key_is_valid(admin_client: Client, db: None) -> None:
    make_key("good", rpm=600)
    make_key("late", expires_at=timezone.now() - timedelta(seconds=1))
    make_key("lost", enabled=False, expires_at=timezone.now() - timedelta(seconds=1))
    page = re.sub(r"<[^>]+>|\s+", " ", admin_client.get(LIST).content.decode())
    told = re.findall(r"(good|late|lost) +(valid|expired|revoked)", page)
    assert told == [("good", "valid"), ("late", "expired"), ("lost", "revoked")]
    assert "600 requests/min" in page


# --- revoking and rotating --------------------------------------------------------------------


def test_revoking_switches_keys_off_and_leaves_a_trace(
    admin_client: Client, key: VirtualKey
) -> None:
    admin_client.post(LIST, {"action": "revoke", "_selected_action": [key.pk]})
    key.refresh_from_db()
    assert (key.enabled, key.history.count()) == (False, 2)
    assert key.history.latest().history_user.username == "admin"


def rotate_path(key: VirtualKey) -> str:
    return f"{LIST}{key.pk}/rotate-secret/"


def test_rotating_shows_a_new_secret_once(admin_client: Client, key: VirtualKey) -> None:
    old = key.secret_sha256
    response = admin_client.post(rotate_path(key), {"hint": key.hint})
    key.refresh_from_db()
    assert key.secret_sha256 == digest(shown_secret(response)) != old
    assert key.history.latest().history_change_reason == "The secret was rotated."
    assert "no-store" in response["cache-control"]


def test_looking_at_the_page_rotates_nothing(admin_client: Client, key: VirtualKey) -> None:
    old = key.secret_sha256
    assert key.hint in admin_client.get(rotate_path(key)).content.decode()
    key.refresh_from_db()
    assert key.secret_sha256 == old


def test_rotating_twice_with_one_page_keeps_the_first_secret(
    admin_client: Client, key: VirtualKey
) -> None:
    """A reload, or two people at once: the one who comes second must not be shown a secret, nor
    kill the other's."""
    posted = {"hint": key.hint}
    secret = shown_secret(admin_client.post(rotate_path(key), posted))
    again = admin_client.post(rotate_path(key), posted, follow=True)
    key.refresh_from_db()
    assert key.secret_sha256 == digest(secret)
    assert "The secret was rotated meanwhile." in again.content.decode()


def test_rotating_needs_a_csrf_token(admin_user: Any, key: VirtualKey) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(rotate_path(key), {"hint": key.hint}).status_code == 403


def test_readers_rotate_and_revoke_nothing(client_with: ClientWith, key: VirtualKey) -> None:
    reader, old = client_with("keys.view_virtualkey"), key.secret_sha256
    assert reader.get(rotate_path(key)).status_code == 403
    assert reader.post(rotate_path(key), {"hint": key.hint}).status_code == 403
    reader.post(LIST, {"action": "revoke", "_selected_action": [key.pk]})
    key.refresh_from_db()
    assert (key.enabled, key.secret_sha256) == (True, old)
    assert "Rotate secret" not in reader.get(f"{LIST}{key.pk}/change/").content.decode()


# --- admin keys are superusers' business ------------------------------------------------------


def test_staff_cannot_make_an_admin_key(client_with: ClientWith) -> None:
    """CVE-2026-47101."""
    add(client_with(*KEY_RIGHTS), admin="on")
    assert VirtualKey.objects.get().admin is False


def test_staff_cannot_raise_a_key(client_with: ClientWith, key: VirtualKey) -> None:
    client = client_with(*KEY_RIGHTS)
    response = client.post(f"{LIST}{key.pk}/change/", key_form(admin="on", rpm="5"))
    key.refresh_from_db()
    assert (response.status_code, key.rpm, key.admin) == (302, 5, False)


def test_superusers_make_admin_keys(admin_client: Client) -> None:
    add(admin_client, admin="on")
    assert VirtualKey.objects.get().admin is True


def test_staff_cannot_take_over_an_admin_key(client_with: ClientWith, db: None) -> None:
    """A new secret of an admin key would be an admin's credential."""
    key = make_key("ops", admin=True, expires_at=timezone.now() + timedelta(days=1))
    client = client_with(*KEY_RIGHTS, "keys.delete_virtualkey")
    before = VirtualKey.objects.values().get()
    assert client.post(rotate_path(key), {"hint": key.hint}).status_code == 403
    assert client.post(f"{LIST}{key.pk}/change/", key_form()).status_code == 403
    assert client.post(f"{LIST}{key.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(LIST, {"action": "revoke", "_selected_action": [key.pk]})
    selected = {"action": "delete_selected", "_selected_action": [key.pk], "post": "yes"}
    client.post(LIST, selected)
    assert VirtualKey.objects.values().get() == before
