"""Which requests come from this machine itself: the ones `local` mode needs no key for.

A page of another site opened in a browser on this machine, and a proxy in front of us, reach the
loopback address too; the headers they cannot leave out tell them apart.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from django.http import HttpRequest

from keys.addresses import is_forwarded


def is_local(request: HttpRequest) -> bool:
    """Whether a request comes from a process on this machine, straight and on its own account."""
    meta = request.META
    host = meta.get("HTTP_HOST", "")
    return (
        _is_loopback(meta.get("REMOTE_ADDR", ""))
        and _is_loopback(_hostname(f"//{host}"))
        and not is_forwarded(request)
        and meta.get("HTTP_SEC_FETCH_SITE", "none") in ("none", "same-origin")
        and meta.get("HTTP_ORIGIN", f"http://{host}") == f"http://{host}"
    )


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
