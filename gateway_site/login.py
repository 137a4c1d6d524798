"""The admin's login, which guesses cannot hurry.

Five failures of a user name from one address in 15 minutes close it to that pair for 15 minutes.
An attempt is counted before the password is looked at, in the database, so that attempts made at
once, in however many workers, are no more than five either.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from ipaddress import IPv6Address, ip_network
from math import ceil
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from unfold.forms import AuthenticationForm

from gateway_site.models import LoginAttempts
from keys import addresses

MAX_FAILURES = 5
WINDOW = timedelta(minutes=15)


class LoginForm(AuthenticationForm):
    """`refused_for_s` is how long, in seconds, this caller's attempts are not looked at."""

    refused_for_s = 0

    def clean(self) -> dict[str, Any]:
        username = self.cleaned_data.get("username")
        if not username or not self.cleaned_data.get("password"):
            return super().clean()  # nothing was guessed
        caller = caller_digest(username, client_address(self.request))
        self.refused_for_s = begin_attempt(caller)
        if self.refused_for_s:
            raise ValidationError(
                f"Too many failed attempts. Try again in {ceil(self.refused_for_s / 60)} minutes."
            )
        cleaned: dict[str, Any] = super().clean()
        LoginAttempts.objects.filter(caller=caller).delete()
        return cleaned


def begin_attempt(caller: str) -> int:
    """Counts an attempt: 0 when it may be made, else the seconds until one may be."""
    now = timezone.now()
    with transaction.atomic():
        LoginAttempts.objects.filter(until__lte=now).delete()
        attempts, _ = LoginAttempts.objects.select_for_update().get_or_create(
            caller=caller, defaults={"until": now + WINDOW}
        )
        if attempts.count >= MAX_FAILURES:
            return ceil((attempts.until - now).total_seconds())
        attempts.count += 1
        attempts.until = now + WINDOW
        attempts.save()
    return 0


def caller_digest(username: str, address: str) -> str:
    return hashlib.sha256(f"{username}\0{address}".encode()).hexdigest()


def client_address(request: HttpRequest) -> str:
    """Where a request came from; of IPv6 the /64 its owner has for himself."""
    address = addresses.client_address(request)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address or "")
