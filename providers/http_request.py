"""The head of a request as it goes out, with nothing in it that a header cannot carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from yarl import URL

from providers.http_connecting import proxy_authorization
from providers.http_failures import not_http
from providers.outbound import CheckedTarget

_DEFAULTS = {
    "user-agent": "abstractcore-server",
    "accept": "*/*",
    "accept-encoding": "identity",
}
# Where a message ends and who reads it is the connection's own affair: another length in here would
# smuggle a second request into it.
_OWN = frozenset(
    ["connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization"]
    + ["proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"]
)
_REMEMBERED = 64
"""Heads kept of one target; a credential differs by provider, and a caller may add headers."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def request_head(
    method: str, target: CheckedTarget, *, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    """Request line and headers; the caller's go before ours, but for those that frame a message.

    Raises UpstreamUnreachable (kind protocol) for a header no message can carry; it may hold a
    credential, so neither the error nor a log shows it. All but the length is remembered on the
    target: an adapter's requests are alike.
    """
    key = (method, tuple(headers.items()))
    start = target.heads.get(key)
    if start is None:
        start = _checked_start(method, target, headers)
        if len(target.heads) >= _REMEMBERED:
            target.heads.clear()
        target.heads[key] = start
    return b"%b%b\r\n" % (start, _length(method, body))


def upload_head(
    method: str, target: CheckedTarget, *, headers: Mapping[str, str], length: int | None
) -> bytes:
    """The head of a request whose body is sent in pieces: of this length, or in chunks. It is not
    remembered, because a form's boundary is another every time."""
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"%b%b\r\n\r\n" % (_checked_start(method, target, headers), framing)


def _checked_start(method: str, target: CheckedTarget, headers: Mapping[str, str]) -> bytes:
    fields = _DEFAULTS | {name.lower(): value for name, value in headers.items()}
    if not _OWN.isdisjoint(fields):
        fields = {name: value for name, value in fields.items() if name not in _OWN}
    lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
    if not _are_names(tuple(fields)) or not _are_values("".join(fields.values())):
        raise not_http()
    return f"{_start(method, target.url, _plain_proxy(target))}{''.join(lines)}".encode()


@lru_cache(maxsize=256)
def _are_names(names: tuple[str, ...]) -> bool:
    return all(_NAME.fullmatch(name) for name in names)


def _are_values(joined: str) -> bool:
    return joined.isprintable() or _CONTROL.search(joined) is None


def _plain_proxy(target: CheckedTarget) -> URL | None:
    """The proxy that reads our request; one that carries a tunnel does not."""
    return target.proxy if target.scheme == "http" else None


@lru_cache(maxsize=1024)
def _start(method: str, url: URL, proxy: URL | None) -> str:
    if proxy is None:
        return f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
    credentials = proxy_authorization(proxy)
    authorization = f"Proxy-Authorization: {credentials}\r\n" if credentials is not None else ""
    return (
        f"{method} {url.with_fragment(None)} HTTP/1.1\r\n"
        f"Host: {url.host_port_subcomponent}\r\n{authorization}"
    )


def _length(method: str, body: bytes | None) -> bytes:
    if body is not None:
        return b"content-length: %d\r\n" % len(body)
    return b"" if method in ("GET", "HEAD", "DELETE") else b"content-length: 0\r\n"
