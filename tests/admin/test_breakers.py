"""The admin page of circuit breakers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from providers.models import CircuitBreaker
from tests.admin.test_providers import text_of

pytestmark = pytest.mark.django_db
LIST = "/admin/providers/circuitbreaker/"


@pytest.fixture
def open_one() -> CircuitBreaker:
    until = timezone.now() + timedelta(seconds=30)
    return CircuitBreaker.objects.create(
        provider="openai", model="gpt-4o-mini", state="open", until=until, calls=[[1.0, 5, 5]]
    )


def close(client: Client, row: CircuitBreaker) -> CircuitBreaker:
    client.post(LIST, {"action": "close", "_selected_action": [row.pk]})
    return CircuitBreaker.objects.get(pk=row.pk)


def test_it_shows_how_they_are(admin_client: Client, open_one: CircuitBreaker) -> None:
    page = text_of(admin_client, LIST)
    assert "openai/gpt-4o-mini" in page
    assert f"{open_one.until:%Y-%m-%d %H:%M}" in page


def test_an_operator_closes_one(admin_client: Client, open_one: CircuitBreaker) -> None:
    closed = close(admin_client, open_one)
    assert (closed.state, closed.until, closed.calls) == ("closed", None, [])
    assert closed.version > open_one.version  # or no worker would hear of it


def test_who_may_only_look_closes_none(client: Client, open_one: CircuitBreaker) -> None:
    user = User.objects.create_user("looker", password="x", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_circuitbreaker"))
    client.force_login(user)
    assert "openai/gpt-4o-mini" in text_of(client, LIST)
    assert close(client, open_one).state == "open"
