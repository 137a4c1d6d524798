"""A turn and its bill on their way into the database, which may be away: the answer is paid for."""

from __future__ import annotations

import contextlib

from django.db import Error

from chat.errors import GatewayError, ServiceUnavailable
from gateway_api.insisting import AWAY, insist
from gateway_api.native.session_turn import lost, see_through
from providers.database import in_database
from sessions_app import transcripts
from sessions_app.transcripts import Bill, Said
from sessions_app.turns import Place, TurnLost, UnknownSession


async def keep_turn(place: Place, said: list[Said], bill: Bill) -> None:
    """Seen through, because it was paid for. Of a session that was deleted meanwhile nothing is
    kept, as was wished. Raises Conflict where the session went on meanwhile, and ServiceUnavailable
    where the database stays away: nothing of the turn is kept then."""
    try:
        await see_through(_keep(place, said, bill))
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


async def keep_part(place: Place, said: list[Said], bill: Bill) -> None:
    """`keep_turn` for a turn that has failed: its caller is told of that, and of nothing else."""
    with contextlib.suppress(GatewayError):
        await keep_turn(place, said, bill)


async def charge(place: Place, bill: Bill) -> None:
    """Ends a turn that leaves nothing but its bill, and never fails itself."""
    with contextlib.suppress(Error):
        await see_through(in_database(transcripts.charge, place, bill))


async def add_bill(place: Place, bill: Bill) -> None:
    """`charge` for a turn that goes on."""
    with contextlib.suppress(Error):
        await see_through(in_database(transcripts.add_bill, place, bill))


async def _keep(place: Place, said: list[Said], bill: Bill) -> None:
    tried = False

    async def append() -> None:
        nonlocal tried
        again, tried = tried, True
        try:
            await in_database(transcripts.append, place, said, bill)
        except TurnLost:
            # Or a try was committed, and the connection lost before it said so.
            if not (again and await in_database(transcripts.is_kept, place, said)):
                raise

    await insist(append)
