"""Typed readers of environment variables. A wrong value stops the start with one sentence."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from providers.outbound import parse_networks


def text(name: str, default: str = "") -> str:
    """The value of `name`, or the content of the file that `name`_FILE names, stripped."""
    path = os.environ.get(f"{name}_FILE")
    if name in os.environ:
        return os.environ[name].strip()
    if not path:
        return default
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{name}_FILE names a file that cannot be read: {error}"
        raise ImproperlyConfigured(problem) from None


def items(name: str, default: str = "") -> list[str]:
    """A comma-separated list without its empty entries."""
    return [item for part in text(name, default).split(",") if (item := part.strip())]


def number(name: str, default: float, *, least: float = 0) -> float:
    value = text(name)
    try:
        result = float(value) if value else default
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number, not {value!r}.") from None
    if not least <= result < float("inf"):
        raise ImproperlyConfigured(f"{name} must be at least {least:g}, not {value!r}.")
    return result


def address(name: str, schemes: tuple[str, ...]) -> str:
    """A URL with one of these schemes; empty where none is set. It may hold a password: what is
    wrong with it is told without it."""
    value = text(name)
    if value and value.partition("://")[0] not in schemes:
        raise ImproperlyConfigured(f"{name} must begin with {' or '.join(schemes)} and `://`.")
    return value


def switch(name: str, *, default: bool) -> bool:
    value = text(name).lower()
    if value in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        return value in ("1", "true", "yes", "on") if value else default
    raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")


def choice(name: str, allowed: tuple[str, ...], default: str) -> str:
    value = text(name, default).lower()
    if value not in allowed:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(allowed)}, not {value!r}.")
    return value


def folder(name: str) -> str:
    """A folder that exists; empty where none is named."""
    value = text(name)
    if value and not Path(value).expanduser().is_dir():
        raise ImproperlyConfigured(f"{name} must name a folder, and {value!r} is none.")
    return value


def networks(name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return parse_networks(text(name))
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}") from None
