"""A turn on its way into the database, which may be away: its answer is paid for."""

from __future__ import annotations

import contextlib

from django.db import Error

from chat.errors import GatewayError, ServiceUnavailable
from gateway_api.exchange import Exchange
from gateway_api.insisting import AWAY, insist
from gateway_api.native.session_turn import lost, see_through
from providers.database import in_database
from sessions_app import transcripts
from sessions_app.transcripts import Said
from sessions_app.turns import Place, TurnLost, UnknownSession
from usage import insertion
from usage.lines import Closed
from usage.recorder import REFUSED


async def keep_turn(place: Place, said: list[Said], exchange: Exchange) -> None:
    """Seen through, because it was paid for. Of a session that was deleted meanwhile nothing is
    kept, as was wished. Raises Conflict where the session went on meanwhile, and ServiceUnavailable
    where the database stays away: nothing of the turn is kept then."""
    try:
        await see_through(_keep(place, said, exchange.closed))
    except UnknownSession:
        return
    except TurnLost:
        raise lost() from None
    except AWAY:
        raise ServiceUnavailable(
            "The model has answered, but the database is away: this turn was not kept, and the "
            "session is as it was before.",
            code="turn_not_kept",
            retry_after="5",
        ) from None


async def keep_part(place: Place, said: list[Said], exchange: Exchange) -> None:
    """`keep_turn` for a turn that has failed: its caller is told of that, and of nothing else."""
    with contextlib.suppress(GatewayError):
        await keep_turn(place, said, exchange)


async def charge(exchange: Exchange) -> None:
    """For a turn that leaves nothing but its line in the ledger."""
    await see_through(in_database(enter_line, exchange.closed))


def enter_line(line: Closed | None) -> None:
    """Enters a request in the ledger before its recorder comes by, and so on its session's bill:
    who looks at the session after a turn finds the turn's cost there. Where the database does not
    take it, the recorder has it in the journal."""
    if line is not None:
        with contextlib.suppress(Error, *REFUSED):
            insertion.record([line])


async def _keep(place: Place, said: list[Said], line: Closed | None) -> None:
    tried = False

    async def append() -> None:
        nonlocal tried
        again, tried = tried, True
        try:
            await in_database(_append, place, said, line)
        except TurnLost:
            # Or a try was committed, and the connection lost before it said so.
            if not (again and await in_database(transcripts.is_kept, place, said)):
                raise

    await insist(append)


def _append(place: Place, said: list[Said], line: Closed | None) -> None:
    enter_line(line)
    transcripts.append(place, said)
