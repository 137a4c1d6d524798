"""What the admin's login remembers."""

from __future__ import annotations

from django.db import models


class LoginAttempts(models.Model):
    """Attempts to sign in that have not succeeded yet, of one user name from one address.

    `caller` is a digest of both: people type their password into the wrong field. `until` is when
    the attempts are forgotten, or the lock ends.
    """

    caller = models.CharField(max_length=64, primary_key=True)
    count = models.PositiveSmallIntegerField(default=0)
    until = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name_plural = "login attempts"

    def __str__(self) -> str:
        return f"{self.count} until {self.until:%Y-%m-%d %H:%M:%S}"
