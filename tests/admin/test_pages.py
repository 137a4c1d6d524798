"""Every page of the admin: who may open it, and what a browser may do on it."""

from __future__ import annotations

import re
import uuid
from importlib import import_module
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.checks import run_checks
from django.test import Client
from django.utils import timezone

from events_app.models import Event
from keys.models import VirtualKey
from providers.models import Deployment, Route
from sessions_app.models import Conversation, Session, SessionMessage, StoredResponse
from tests.admin.conftest import ClientWith
from tools_app.models import McpServer, Tool
from usage.models import HourlyUsage, UsageRecord

MODELS = {
    "providers_provider": True,
    "providers_deployment": True,
    "providers_route": True,
    "keys_virtualkey": True,
    "auth_user": True,
    "auth_group": True,
    "usage_usagerecord": False,
    "usage_hourlyusage": False,
    "events_app_event": False,
    "sessions_app_storedresponse": False,
    "sessions_app_session": False,
    "sessions_app_conversation": False,
    "tools_app_tool": True,
    "tools_app_mcpserver": True,
}
"""The models of the admin, and whether anybody may add rows."""


@pytest.fixture
def pages(deployment: Deployment, key: VirtualKey) -> dict[str, dict[str, str]]:
    """The paths of each model's pages by what they are for, with a row to show."""
    now = timezone.now()
    rows = [
        deployment.provider,
        deployment,
        Route.objects.create(name="smart"),
        key,
        User.objects.create_user("somebody"),
        Group.objects.create(name="operators"),
        UsageRecord.objects.create(
            id=uuid.uuid4(), request_id="r", created_at=now, wire="openai", stream=False
        ),
        HourlyUsage.objects.create(hour=now, model="m"),
        Event.objects.create(line=uuid.uuid4(), type="error", created_at=now, fields={"code": "x"}),
        StoredResponse.objects.create(owner="ci", response_id="resp_1", status="completed"),
        Session.objects.create(owner="ci", session_id="session-1"),
        Conversation.objects.create(owner="ci", conversation_id="conv_1"),
        Tool.objects.create(name="get_weather", kind="client"),
        McpServer.objects.create(name="lab", url="http://mcp.example/"),
    ]
    return {name: _pages_of(name, row) for name, row in zip(MODELS, rows, strict=True)}


def _pages_of(name: str, row: Any) -> dict[str, str]:
    app, _, model = name.rpartition("_")
    base = f"/admin/{app}/{model}/"
    paths = {"list": base, "change": f"{base}{row.pk}/change/"}
    paths["history"] = f"{base}{row.pk}/history/"
    if MODELS[name]:
        paths |= {"add": f"{base}add/", "delete": f"{base}{row.pk}/delete/"}
    return paths


def all_paths(pages: dict[str, dict[str, str]]) -> list[str]:
    return ["/admin/", *(path for paths in pages.values() for path in paths.values())]


def test_strangers_are_sent_to_the_login(pages: dict[str, dict[str, str]]) -> None:
    for path in all_paths(pages):
        response = Client().get(path)
        assert (response.status_code, response["location"].split("?")[0]) == (302, "/admin/login/")


def test_people_who_are_no_staff_are_sent_to_the_login(pages: dict[str, dict[str, str]]) -> None:
    client = Client()
    client.force_login(User.objects.create_user("guest"))
    assert {client.get(path).status_code for path in all_paths(pages)} == {302}


def test_staff_without_a_permission_see_no_page(
    client_with: ClientWith, pages: dict[str, dict[str, str]]
) -> None:
    client = client_with()
    statuses = {path: client.get(path).status_code for path in all_paths(pages)[1:]}
    assert set(statuses.values()) == {403}, statuses


@pytest.mark.parametrize("name", MODELS)
def test_a_reader_reads_and_nothing_else(
    client_with: ClientWith, pages: dict[str, dict[str, str]], name: str
) -> None:
    app, _, model = name.rpartition("_")
    client = client_with(f"{app}.view_{model}")
    statuses = {kind: client.get(path).status_code for kind, path in pages[name].items()}
    expected = {"list": 200, "change": 200, "history": 200, "add": 403, "delete": 403}
    assert statuses == {kind: expected[kind] for kind in statuses}
    assert client.post(pages[name]["change"], {"name": "x"}).status_code == 403


def test_superusers_see_every_page(admin_client: Client, pages: dict[str, dict[str, str]]) -> None:
    statuses = {path: admin_client.get(path).status_code for path in all_paths(pages)}
    assert set(statuses.values()) == {200}, statuses


def test_the_sidebar_leads_only_where_one_may_go(client_with: ClientWith) -> None:
    page = client_with("providers.view_provider").get("/admin/").content.decode()
    assert 'href="/admin/providers/provider/"' in page
    assert 'href="/admin/keys/virtualkey/"' not in page
    for name in MODELS:
        app, _, model = name.rpartition("_")
        page = client_with(f"{app}.view_{model}").get("/admin/").content.decode()
        assert f'href="/admin/{app}/{model}/"' in page


@pytest.mark.parametrize("page", ["/admin/login/", "/admin/"])
def test_pages_allow_no_script_of_their_own_text(admin_client: Client, page: str) -> None:
    client = Client() if page == "/admin/login/" else admin_client
    response = client.get(page)
    policy = dict(
        part.strip().partition(" ")[::2] for part in response["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "'unsafe-inline'" not in policy["script-src"]
    assert response["x-content-type-options"] == "nosniff"
    assert response["referrer-policy"] == "same-origin"


def test_no_page_holds_what_the_policy_forbids_or_names_another_host(
    admin_client: Client, pages: dict[str, dict[str, str]], key: VirtualKey
) -> None:
    extra = [f"/admin/keys/virtualkey/{key.pk}/rotate-secret/", "/admin/password_change/"]
    for path in [*all_paths(pages), *extra]:
        page = admin_client.get(path).content.decode()
        inline = re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", page)
        handlers = re.findall(r"\son[a-z]+=\"|javascript:", page)
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(https?:|//)", page)
        assert (path, inline, handlers, loaded) == (path, [], [], [])


@pytest.mark.parametrize("file", ["icon.svg", "admin.css"])
def test_our_own_static_files_are_served(client: Client, file: str) -> None:
    response = client.get(f"/static/gateway_site/{file}")
    assert response.status_code == 200
    assert response.getvalue()


# --- users and groups -------------------------------------------------------------------------

USER_RIGHTS = ("auth.view_user", "auth.add_user", "auth.change_user", "auth.delete_user")


def user_form(user: User, **changes: Any) -> dict[str, Any]:
    joined = user.date_joined
    return {
        "username": user.username,
        "is_active": "on",
        "date_joined_0": f"{joined:%Y-%m-%d}",
        "date_joined_1": f"{joined:%H:%M:%S}",
    } | changes


def test_staff_give_nobody_rights(client_with: ClientWith) -> None:
    """CVE-2026-47102: the row may be changed, these columns may not."""
    client, group = client_with(*USER_RIGHTS), Group.objects.create(name="admins")
    user = User.objects.create_user("somebody")
    permission = Permission.objects.get(codename="change_provider")
    rights = {
        "is_staff": "on",
        "is_superuser": "on",
        "groups": [group.pk],
        "user_permissions": [permission.pk],
    }
    path = f"/admin/auth/user/{user.pk}/change/"
    response = client.post(path, user_form(user, first_name="Some", **rights))
    user = User.objects.get(pk=user.pk)
    assert (response.status_code, user.first_name) == (302, "Some")
    assert (user.is_staff, user.is_superuser) == (False, False)
    assert not user.groups.exists() and not user.user_permissions.exists()


def test_staff_take_over_no_account_with_rights(client_with: ClientWith) -> None:
    client = client_with(*USER_RIGHTS)
    for user in (
        User.objects.create_superuser("root2"),
        User.objects.create_user("colleague", is_staff=True),
    ):
        base = f"/admin/auth/user/{user.pk}/"
        passwords = {"password1": "a-long-new-one-1", "password2": "a-long-new-one-1"}
        for page, posted in (
            ("change/", user_form(user)),
            ("password/", passwords),
            ("delete/", {"post": "yes"}),
        ):
            assert client.post(base + page, posted).status_code == 403, page
        assert User.objects.filter(pk=user.pk, password=user.password).exists()


def test_only_superusers_touch_groups(client_with: ClientWith) -> None:
    rights = [f"auth.{act}_group" for act in ("view", "add", "change", "delete")]
    client, group = client_with(*rights), Group.objects.create(name="operators")
    assert client.post("/admin/auth/group/add/", {"name": "mine"}).status_code == 403
    assert client.post(f"/admin/auth/group/{group.pk}/change/", {"name": "x"}).status_code == 403
    assert client.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "y"}).status_code == 403


@pytest.mark.parametrize("reader", [False, True])
def test_no_part_of_a_password_hash_is_shown(
    admin_client: Client, client_with: ClientWith, settings: Any, reader: bool
) -> None:
    """GHSA-69x8. Django's own page shows the beginning of salt and hash."""
    user = User.objects.create_user("somebody", password="some password")
    _, salt, hashed = user.password.split("$")
    client = client_with("auth.view_user") if reader else admin_client
    page = client.get(f"/admin/auth/user/{user.pk}/change/").content.decode()
    assert "A password is set." in page
    assert salt[:6] not in page and hashed[:6] not in page


def test_every_page_of_the_admin_passes_djangos_own_checks() -> None:
    import_module(
        "gateway_site.urls"
    )  # which loads the pages; `manage.py check` may come before it
    assert len(admin.site._registry) > 8
    assert run_checks(tags=["admin"]) == []


def test_a_transcript_shows_what_was_said_as_text(client_with: ClientWith) -> None:
    session = Session.objects.create(owner="ci", session_id="session-1")
    SessionMessage.objects.create(
        session=session,
        number=2,
        message_id="msg_1",
        role="assistant",
        body='{"role": "assistant", "content": "<script>alert(1)</script> hello"}',
    )
    client = client_with("sessions_app.view_session")
    page = client.get(f"/admin/sessions_app/session/{session.pk}/change/").content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; hello" in page
    assert "<script>alert(1)" not in page
