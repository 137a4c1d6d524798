"""The `format`s that answers are held to: those OpenAI's strict mode knows, and `uri`.

JSON Schema leaves them to the implementation (2020-12, 7.2.1); whoever asks for a date wants one.
Others are notes, as the specification has it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime, time
from uuid import UUID

from jsonschema import FormatChecker

from providers.emulation.patterns import PatternRefused, compile_pattern

_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?P<time>\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_TIME = re.compile(r"(?P<time>\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DURATION = re.compile(
    r"P(?=.)(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=.)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?)",
    re.ASCII,
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LOCAL_PART = re.compile(r'[^@\s."]+(?:\.[^@\s."]+)*|"[^"]*"')
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*")


def _reads(text: str, read: Callable[[str], object]) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def _is_moment(text: str) -> bool:
    """RFC 3339; a leap second is a second."""
    found = _MOMENT.fullmatch(text)
    return found is not None and _reads(_plain(text, found), datetime.fromisoformat)


def _is_time(text: str) -> bool:
    """RFC 3339's full-time, and without a zone, as pydantic writes one."""
    found = _TIME.fullmatch(text)
    return found is not None and _reads(_plain(text, found), time.fromisoformat)


def _plain(text: str, found: re.Match[str]) -> str:
    """Without the fraction, and with :59 for a leap second: Python knows neither in full."""
    start, end = found.span("time")
    clock = text[start:end].replace(":60", ":59") if text[start:end].endswith(":60") else ""
    return text[:start] + (clock or text[start:end]) + (found[3] or "").upper()


def _is_date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None and _reads(text, date.fromisoformat)


def _is_host(text: str) -> bool:
    return len(text) <= 253 and all(map(_LABEL.fullmatch, text.split(".")))


def _is_email(text: str) -> bool:
    local, _, domain = text.rpartition("@")
    if _LOCAL_PART.fullmatch(local) is None:
        return False
    if domain.startswith("[") and domain.endswith("]"):
        return _reads(domain[1:-1].removeprefix("IPv6:"), ipaddress.ip_address)
    return _is_host(domain)


def _is_pattern(text: str) -> bool:
    try:
        compile_pattern(text)
    except PatternRefused:
        return False
    return True


CHECKS: dict[str, Callable[[str], bool]] = {
    "date": _is_date,
    "date-time": _is_moment,
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "email": _is_email,
    "hostname": _is_host,
    "ipv4": lambda text: _reads(text, ipaddress.IPv4Address),
    "ipv6": lambda text: "%" not in text and _reads(text, ipaddress.IPv6Address),
    "regex": _is_pattern,
    "time": _is_time,
    "uri": lambda text: _URI.fullmatch(text) is not None,
    "uuid": lambda text: _UUID.fullmatch(text) is not None and _reads(text, UUID),
}


def _of_strings(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or check(value)


FORMATS = FormatChecker(formats=())
for _name, _check in CHECKS.items():
    FORMATS.checks(_name)(_of_strings(_check))
