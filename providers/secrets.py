"""Upstream credentials at rest: encrypted under the deployment's secret keys, newest first."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models


class SecretUnreadable(Exception):
    """A stored secret was encrypted under a key this process does not have."""


@lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(_derived(key)) for key in keys])


def _derived(key: str) -> bytes:
    # Named apart from Django's other uses of the same secret (sessions, signing).
    digest = hashlib.scrypt(key.encode(), salt=b"abstractcore.providers.secrets", n=2**14, r=8, p=1)
    return base64.urlsafe_b64encode(digest[:32])


def cipher() -> MultiFernet:
    """Encrypts under the newest secret key, decrypts under any."""
    return _cipher((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


def encrypt(secret: str) -> str:
    return cipher().encrypt(secret.encode()).decode() if secret else ""


def decrypt(token: str) -> str:
    """Raises SecretUnreadable."""
    if not token:
        return ""
    try:
        return cipher().decrypt(token.encode()).decode()
    except InvalidToken:
        raise SecretUnreadable from None


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]  # takes none at run time
    """Holds the ciphertext, in Python too: reading it needs a call that says so (`decrypt`), so
    that no form, history row, log line or repr shows a secret by accident."""
