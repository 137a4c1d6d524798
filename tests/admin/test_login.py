"""The login: five failures of a user name from an address close it for 15 minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
from django.utils import timezone

from gateway_site.login import client_address
from gateway_site.models import LoginAttempts

LOGIN = "/admin/login/"
PASSWORD = "correct horse battery"


@pytest.fixture
def person(db: None) -> User:
    return User.objects.create_user("ada", password=PASSWORD, is_staff=True)


def sign_in(username: str = "ada", password: str = "wrong", *, address: str = "192.0.2.1") -> Any:
    posted = {"username": username, "password": password}
    return Client().post(LOGIN, posted, REMOTE_ADDR=address)


def fail(times: int, **who: str) -> list[int]:
    return [sign_in(**who).status_code for _ in range(times)]


def test_the_right_password_signs_in(person: User) -> None:
    response = sign_in(password=PASSWORD)
    assert (response.status_code, response["location"]) == (302, "/admin/")


def test_five_failures_are_only_failures(person: User) -> None:
    assert fail(5) == [200] * 5


def test_after_five_failures_the_right_password_is_429(person: User) -> None:
    fail(5)
    response = sign_in(password=PASSWORD)
    assert response.status_code == 429
    assert 0 < int(response["retry-after"]) <= 900
    assert "Try again in 15 minutes" in response.content.decode()


def test_after_15_minutes_it_is_open_again(person: User) -> None:
    fail(5)
    LoginAttempts.objects.update(until=timezone.now())
    assert sign_in(password=PASSWORD).status_code == 302


def test_attempts_while_it_is_closed_do_not_keep_it_closed(person: User) -> None:
    fail(5)
    until = LoginAttempts.objects.get().until
    fail(3)
    assert LoginAttempts.objects.get().until == until


def test_success_forgets_the_failures(person: User) -> None:
    fail(4)
    sign_in(password=PASSWORD)
    assert fail(4) == [200] * 4
    assert sign_in(password=PASSWORD).status_code == 302


def test_another_address_is_not_closed(person: User) -> None:
    fail(5)
    assert sign_in(password=PASSWORD, address="192.0.2.2").status_code == 302


def test_another_user_is_not_closed(person: User) -> None:
    fail(5, username="eve")
    assert sign_in(password=PASSWORD).status_code == 302


def test_a_name_that_does_not_exist_is_closed_like_one_that_does(person: User) -> None:
    assert fail(6, username="nobody") == fail(6) == [200] * 5 + [429]


def test_the_right_password_of_somebody_who_is_no_staff_counts(db: None) -> None:
    User.objects.create_user("bob", password=PASSWORD)
    assert fail(6, username="bob", password=PASSWORD) == [200] * 5 + [429]


def test_an_empty_form_is_no_attempt(person: User) -> None:
    fail(9, password="")
    assert not LoginAttempts.objects.exists()


def test_what_was_typed_is_not_kept(person: User) -> None:
    """People type a password where the name belongs."""
    fail(1, username="my-secret-password")
    assert "my-secret-password" not in str(LoginAttempts.objects.values().get())


def test_forgotten_attempts_are_removed(person: User) -> None:
    past = timezone.now() - timedelta(seconds=1)
    LoginAttempts.objects.create(caller="old", count=5, until=past)
    fail(1)
    assert not LoginAttempts.objects.filter(caller="old").exists()


AT_ONCE = """
import sys, threading, django
django.setup()
from gateway_site.login import begin_attempt
print("ready", flush=True)
sys.stdin.readline()
answers = []
threads = [threading.Thread(target=lambda: answers.append(begin_attempt("x"))) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(answers), answers.count(0))
"""


def test_attempts_at_once_in_two_workers_are_no_more_than_five(
    spare_database_url: str, tmp_path: Path
) -> None:
    """Counted before the password is looked at, or a burst would be one long first attempt."""
    own = {"DATABASE_URL": spare_database_url, "ABSTRACTCORE_DATA_DIR": str(tmp_path)}
    surroundings = {**os.environ, **own, "DJANGO_SETTINGS_MODULE": "gateway_site.settings"}
    migrate = [sys.executable, "manage.py", "migrate", "-v0", "gateway_site"]
    subprocess.run(migrate, cwd=settings.BASE_DIR, env=surroundings, check=True)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE],
            cwd=settings.BASE_DIR,
            env=surroundings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    told = [worker.communicate("go\n", timeout=60)[0].split() for worker in workers]
    assert [int(attempts) for attempts, _ in told] == [8, 8]
    assert sum(int(allowed) for _, allowed in told) == 5


PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "not an address", "10.0.0.1"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
        ("", "198.51.100.7", ""),
    ],
)
def test_only_our_own_proxies_say_where_a_request_came_from(
    settings: Any, peer: str, forwarded: str, address: str
) -> None:
    settings.TRUSTED_PROXIES = PROXIES
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    request = RequestFactory().get("/", headers=headers, REMOTE_ADDR=peer)
    assert client_address(request) == address


def test_a_forged_header_opens_no_second_account_of_attempts(person: User) -> None:
    statuses = []
    for number in range(6):
        posted = {"username": "ada", "password": "wrong"}
        headers = {"x-forwarded-for": f"198.51.100.{number}"}
        statuses.append(Client().post(LOGIN, posted, headers=headers).status_code)
    assert statuses == [200] * 5 + [429]
