"""What requests share in one process: the configuration, the client to upstreams and the journal.

All are put here by the composition root (`gateway_site.background`) before the first request.
"""

from __future__ import annotations

import asyncio

from django.conf import settings

from chat.errors import ServiceUnavailable
from providers import snapshot
from providers.http import HttpClient, shared_client
from providers.outbound import OutboundPolicy
from providers.snapshot import Snapshot
from tools_app import snapshot as tools
from usage.journal import Journal

_journal: Journal | None = None
_client: tuple[asyncio.AbstractEventLoop, HttpClient] | None = None
_policy = OutboundPolicy.for_providers(settings.OUTBOUND_ALLOW)


def http_client() -> HttpClient:
    """The client of the running event loop."""
    global _client
    loop = asyncio.get_running_loop()
    if _client is None or _client[0] is not loop:
        # Remembered, because to hash a policy of networks takes longer than to ask for a model.
        _client = loop, shared_client(_policy)
    return _client[1]


def configuration() -> Snapshot:
    """The configuration in force. Raises ServiceUnavailable where none was read yet: that there is
    nothing in it would be a wrong answer."""
    found = snapshot.current()
    if found is snapshot.EMPTY:
        raise _unread()
    return found


def _unread() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The gateway has not read its configuration yet: the database is away.",
        code="database_unavailable",
        retry_after="5",
    )


def require_tools() -> None:
    """Raises ServiceUnavailable where the registered tools have not been read yet."""
    if tools.current() is tools.EMPTY:
        raise _unread()


def install_journal(journal: Journal | None) -> None:
    global _journal
    _journal = journal


def journal() -> Journal:
    """This process's journal. Raises ServiceUnavailable where there is none: a request that
    cannot be written down is not made."""
    if _journal is None:
        raise ServiceUnavailable("The gateway's journal is not open.", code="journal_unavailable")
    return _journal
