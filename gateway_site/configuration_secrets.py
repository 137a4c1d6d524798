"""Secrets in a configuration: given in the file, or by the name of an environment variable.

A provider's `api_key_env` stays a reference: the server reads the variable. A key's `secret_env` is
read when the file is applied, since only a digest of it is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from gateway_site.configuration_differences import assign
from gateway_site.configuration_file import ConfigurationError
from gateway_site.configuration_schema import KeyEntry, ProviderEntry, check_secret
from keys.models import VirtualKey, digest
from providers.models import Provider, read_variable
from providers.secrets import SecretUnreadable, decrypt

_PROVIDER = "ABSTRACTCORE_PROVIDER_{}_API_KEY"
_KEY = "ABSTRACTCORE_KEY_{}_SECRET"


def provider_variables(names: Iterable[str]) -> dict[str, str]:
    """The variables an export refers to for stored credentials, by the providers' names."""
    return variables(_PROVIDER, names)


def key_variables(names: Iterable[str]) -> dict[str, str]:
    """The variables an export refers to for the secrets of virtual keys, by the keys' names."""
    return variables(_KEY, names)


def variables(pattern: str, names: Iterable[str]) -> dict[str, str]:
    """A variable for each name, no two alike."""
    plain = {name: pattern.format(_plain(name)) for name in names}
    count = Counter(plain.values())
    return {
        name: variable if count[variable] == 1 else pattern.format(_unmistakable(name))
        for name, variable in plain.items()
    }


def _plain(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _unmistakable(name: str) -> str:
    # "a.b" and "A-B" are two names and one variable.
    return f"{_plain(name)}_{hashlib.sha256(name.encode()).hexdigest()[:8].upper()}"


def is_provider_variable(name: str, variable: str) -> bool:
    """Whether an export may have given this name to this provider's stored credential."""
    return variable in (_PROVIDER.format(_plain(name)), _PROVIDER.format(_unmistakable(name)))


def read_secret(variable: str) -> str:
    """A variable's value, or what is in the file it names; empty where it is unset. Raises
    ConfigurationError."""
    try:
        return read_variable(variable)
    except (OSError, UnicodeDecodeError):
        problem = f"the file that {variable}_FILE names cannot be read"
        raise ConfigurationError([problem]) from None


def settle_api_key(row: Provider, entry: ProviderEntry, notes: list[str]) -> list[str]:
    """Gives a provider, unsaved, its credential or the variable that holds it; returns what that
    changed."""
    stored = _stored(row)
    if _keeps_stored(row, entry, stored):
        if not read_secret(entry.api_key_env):
            notes.append(f"{entry.api_key_env} is not set: provider {row} keeps its credential")
        return []
    differences = assign(row, {"api_key_env": entry.api_key_env})
    if entry.api_key != stored:
        row.set_api_key(entry.api_key)
        differences.append("api_key changed" if entry.api_key else "api_key removed")
    return differences


def _stored(row: Provider) -> str | None:
    """The credential in the row; None for one this process cannot read."""
    try:
        return decrypt(row.api_key)
    except SecretUnreadable:
        return None


def _keeps_stored(row: Provider, entry: ProviderEntry, stored: str | None) -> bool:
    if stored == "" or not is_provider_variable(row.name, entry.api_key_env):
        return False
    return read_secret(entry.api_key_env) in ("", stored)


def key_secret(entry: KeyEntry) -> str:
    """The secret an entry gives, else empty. Raises ConfigurationError."""
    return entry.secret or (read_secret(entry.secret_env) if entry.secret_env else "")


def settle_secret(row: VirtualKey, entry: KeyEntry, notes: list[str]) -> list[str]:
    """Gives a key, unsaved, its secret; returns what that changed."""
    secret = key_secret(entry)
    if not secret:
        if entry.secret_env:
            notes.append(f"{entry.secret_env} is not set: key {row} keeps its secret")
        return []
    if row.secret_sha256 == digest(secret):
        return []
    row.set_secret(secret)
    return ["secret changed"]


def vacate_digests(rows: Iterable[VirtualKey], entries: Iterable[KeyEntry]) -> None:
    """Takes the digests of secrets about to change out of the way: two keys may exchange theirs."""
    secrets = {entry.name: key_secret(entry) for entry in entries}
    for row in rows:
        secret = secrets.get(row.name)
        if secret and digest(secret) != row.secret_sha256:
            VirtualKey.objects.filter(pk=row.pk).update(secret_sha256=f"changing {row.pk}")


def secret_problems(entries: Sequence[KeyEntry], *, prune: bool) -> Iterator[str]:
    """Secrets that are missing, too weak, or another key's already."""
    named = {entry.name for entry in entries}
    stored = dict(VirtualKey.objects.values_list("name", "secret_sha256"))
    holders = {taken: name for name, taken in stored.items() if not (prune and name not in named)}
    given = {entry.name: key_secret(entry) for entry in entries}
    for name, secret in given.items():
        if secret and name in stored:
            holders.pop(stored[name], None)
    for index, entry in enumerate(entries):
        place, secret = f"keys[{index}]", given[entry.name]
        if not secret:
            if entry.name not in stored:
                yield _missing(place, entry)
            continue
        try:
            check_secret(secret)
        except ValueError as error:
            yield f"{place}.secret_env: the value of {entry.secret_env} {error}"
        holder = holders.setdefault(digest(secret), entry.name)
        if holder != entry.name:
            yield f"{place}: has the secret of the key {holder}"


def _missing(place: str, entry: KeyEntry) -> str:
    if entry.secret_env:
        return f"{place}.secret_env: {entry.secret_env} is not set"
    return f"{place}: a new key needs secret or secret_env; or make it with create_key"
