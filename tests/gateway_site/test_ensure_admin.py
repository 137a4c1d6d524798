"""ensure_admin makes the first superuser, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import CommandError

from tests.gateway_site.commands import finish, run, start

pytestmark = pytest.mark.django_db


def test_the_printed_password_opens_the_admin() -> None:
    first_line = run("ensure_admin").out.splitlines()[0]
    password = first_line.rpartition(" ")[2]
    user = authenticate(username="admin", password=password)
    assert isinstance(user, User)
    assert user.is_superuser and user.is_staff


def test_a_second_run_is_silent() -> None:
    run("ensure_admin")
    before = User.objects.values().get()
    assert run("ensure_admin") == ("", "")
    assert User.objects.values().get() == before


def test_any_superuser_is_enough() -> None:
    User.objects.create_superuser("someone")
    assert run("ensure_admin") == ("", "")
    assert not User.objects.filter(username="admin").exists()


def test_an_ordinary_user_of_that_name_is_left_alone() -> None:
    User.objects.create_user("admin")
    with pytest.raises(CommandError, match="The user admin exists and is no superuser"):
        run("ensure_admin")
    assert not User.objects.get().is_superuser


def test_of_two_at_once_one_makes_the_admin(tmp_path: Path, spare_database_url: str) -> None:
    two = [start(spare_database_url, tmp_path, "ensure_admin") for _ in range(2)]
    printed = sorted(finish(process) for process in two)
    assert printed[0] == ("", "")
    assert printed[1].out.startswith("Sign in to /admin/ as admin with the password ")
