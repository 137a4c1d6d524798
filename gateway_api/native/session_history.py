"""What a session's model is told of it: all that fits into its window, by the session's policy.

Tokens are estimated from bytes, and counted by the provider where it can and the estimate does not
settle the matter: a token of the usual vocabularies is a byte at least, four in English, and less
than two in Japanese or in base64.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chat.errors import GatewayError, InvalidRequest
from chat.requests import ChatRequest
from gateway_api.pipeline import configuration_in_force
from gateway_api.resources import http_client
from keys.caller import Caller
from providers import listings
from providers.database import in_database
from providers.dispatch import Dispatch
from providers.routing import Plan, find_plan
from providers.snapshot import Target
from sessions_app import transcripts
from sessions_app.session_rows import SessionMessage, Truncation
from sessions_app.sizes import BYTES_PER_TOKEN, tokens_of, words
from sessions_app.transcripts import Transcript
from sessions_app.turns import Place

logger = logging.getLogger(__name__)

ANSWER_TOKENS = 1024
"""Kept free for the answer where a request sets no limit, but never more than a quarter of the
window."""
COUNT_WITHIN_S = 5.0
MAX_COUNTS = 4
"""In one turn: each takes as long as the provider's answer to it."""
_HOPEFUL = {Truncation.ERROR: 0.25}
"""The fewest tokens there may be for an estimated one: what is refused must be too long for sure,
what is left out need not be read just because it might have fitted."""

Count = Callable[[Sequence[SessionMessage]], Awaitable[int | None]]
"""The tokens of a prompt with these earlier messages; None where nobody can tell."""


@dataclass(slots=True)
class Room:
    """Tokens of a window, of the answer that is to fit into it too, and of what is asked now."""

    window: int
    answer: int
    own: int
    """Estimated."""
    ratio: float = 1.0
    """Counted tokens for an estimated one."""

    @property
    def limit(self) -> int:
        """The most that a prompt may have."""
        return self.window - self.answer

    @property
    def budget(self) -> int:
        """What is left for earlier messages, in estimated tokens."""
        return int(self.limit / self.ratio) - self.own

    def surely_takes(self, earlier: int) -> bool:
        """Whether messages of so many estimated tokens fit whatever they say."""
        return (self.own + earlier) * BYTES_PER_TOKEN <= self.limit

    def measure(self, counted: int, earlier: int) -> None:
        self.ratio = max(counted / max(1, self.own + earlier), 0.05)


def room_for(plan: Plan, body: dict[str, Any]) -> Room | None:
    """What a chat leaves free; None where no target says how much it takes."""
    windows = [each for target in plan.targets if (each := _window_of(target))]
    if not windows:
        return None
    window = min(windows)
    answer = body.get("max_completion_tokens") or body.get("max_tokens")
    own = sum(map(tokens_of, body["messages"])) + words(body.get("tools") or "")
    return Room(window, answer or min(ANSWER_TOKENS, window // 4), own)


async def plan_of(caller: Caller, model: str | None) -> Plan:
    """Where a caller's chat goes to. Raises ModelNotFound."""
    return await find_plan(
        configuration_in_force(), model, may_use=caller.may_use, http=http_client()
    )


async def count_prompt(plan: Plan, request: ChatRequest) -> int | None:
    """The tokens of a prompt, by who will answer it; None where that cannot count, or not now."""
    dispatch = Dispatch(configuration_in_force(), http_client(), plan, request)
    try:
        async with asyncio.timeout(COUNT_WITHIN_S):
            return await dispatch.count_prompt()
    except (GatewayError, TimeoutError) as error:
        logger.info("A prompt for %s could not be counted: %s", plan.model, error)
        return None


def _window_of(target: Target) -> int | None:
    if target.facts.context_window:
        return target.facts.context_window
    listed = listings.models_of(target.provider).get(target.model)
    return listed.context_window if listed is not None else None


async def read_history(
    place: Place, policy: str, room: Room | None, *, unfinished: bool, count: Count
) -> Transcript:
    """Raises InvalidRequest where the conversation is longer than the window and its policy is to
    say so, or where what is asked now does not fit alone. `unfinished`: what is asked now answers
    calls of the last turn."""
    session = place.session
    if room is None:
        return await in_database(transcripts.read_all, session)
    estimated = await in_database(transcripts.count_tokens, session)
    if room.surely_takes(estimated):
        return await in_database(transcripts.read_all, session)
    room.ratio = _HOPEFUL.get(Truncation(policy), 0.8)
    for _ in range(MAX_COUNTS):
        history = await in_database(_read, session, policy, room, estimated, unfinished)
        counted = await count(history.messages)
        if counted is None:
            room.ratio = 1.0
            return await in_database(_read, session, policy, room, estimated, unfinished)
        if counted <= room.limit:
            return history
        if policy == Truncation.ERROR or not history.messages:
            raise _too_long(room, counted - room.limit)
        last = room.ratio
        room.measure(counted, history.tokens)
        room.ratio = max(room.ratio, last * 1.1)
    return await in_database(transcripts.read_recent, session, budget=0, unfinished=unfinished)


async def fits(place: Place, room: Room, count: Count) -> bool:
    """Whether all of a conversation fits."""
    estimated = await in_database(transcripts.count_tokens, place.session)
    if room.surely_takes(estimated):
        return True
    if estimated > 2 * room.limit:  # not worth the reading
        return False
    everything = await in_database(transcripts.read_all, place.session)
    counted = await count(everything.messages)
    if counted is None:
        return estimated <= room.budget
    return counted <= room.limit


def _read(session: int, policy: str, room: Room, estimated: int, unfinished: bool) -> Transcript:
    """What there is room for, if the estimates are right."""
    if room.budget < 0:
        raise _too_long(room, -room.budget)
    if estimated <= room.budget:
        return transcripts.read_all(session)
    if policy == Truncation.ERROR:
        raise _too_long(room, estimated - room.budget)
    return transcripts.read_recent(session, budget=room.budget, unfinished=unfinished)


def _too_long(room: Room, excess: int) -> InvalidRequest:
    return InvalidRequest(
        f"The conversation is about {excess} tokens longer than the model's window of "
        f"{room.window} allows. Set 'truncation' to drop_oldest or summarise, or compact the "
        "session.",
        param="messages",
        code="context_length_exceeded",
    )
