"""`manage.py ensure_admin`."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib.auth.models import User
from django.core.management import BaseCommand, CommandError
from django.db import IntegrityError, transaction

from gateway_site.management.one_line_errors import one_line_errors
from gateway_site.migrations_state import make_ready

NAME = "admin"


class Command(BaseCommand):
    help = (
        "Makes the first superuser, `admin`, and prints its password, this once; says nothing "
        "where there is a superuser. A lost password: manage.py changepassword admin."
    )
    requires_system_checks: list[str] = []

    def handle(self, **_: Any) -> None:
        with one_line_errors():
            make_ready()
            password = make_first_admin()
        if password:
            self.stdout.write(f"Sign in to /admin/ as {NAME} with the password {password}")
            self.stdout.write("It is shown this once.")


def make_first_admin() -> str | None:
    """The new superuser's password; None where there was a superuser, or another process made one
    meanwhile. Raises CommandError when somebody else has the name."""
    if _has_superuser():
        return None
    password = secrets.token_urlsafe(16)
    user = User(username=NAME, is_staff=True, is_superuser=True)
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError:
        if _has_superuser():
            return None
        raise CommandError(
            f"The user {NAME} exists and is no superuser; run manage.py createsuperuser."
        ) from None
    return password


def _has_superuser() -> bool:
    return User.objects.filter(is_superuser=True).exists()
