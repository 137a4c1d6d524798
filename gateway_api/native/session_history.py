"""What a session's model is told of it: all that fits into its window, by the session's policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chat.errors import InvalidRequest
from gateway_api.pipeline import configuration_in_force
from gateway_api.resources import http_client
from keys.caller import Caller
from providers import listings
from providers.routing import Plan, find_plan
from providers.snapshot import Target
from sessions_app import transcripts
from sessions_app.session_rows import Truncation
from sessions_app.sizes import tokens_of, words
from sessions_app.transcripts import Transcript
from sessions_app.turns import Place

ANSWER_TOKENS = 1024
"""Kept free for the answer where a request sets no limit, but never more than a quarter of the
window."""


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens of a window: all of it, and what is left of it for earlier messages."""

    window: int
    budget: int


def room_for(plan: Plan, body: dict[str, Any]) -> Room | None:
    """What a chat leaves free; None where no target says how much it takes."""
    answer = body.get("max_completion_tokens") or body.get("max_tokens")
    windows = [each for target in plan.targets if (each := _window_of(target))]
    if not windows:
        return None
    window = min(windows)
    said = sum(map(tokens_of, body["messages"])) + words(body.get("tools") or "")
    return Room(window, window - said - (answer or min(ANSWER_TOKENS, window // 4)))


async def plan_of(caller: Caller, model: str | None) -> Plan:
    """Where a caller's chat goes to. Raises ModelNotFound."""
    return await find_plan(
        configuration_in_force(), model, may_use=caller.may_use, http=http_client()
    )


def _window_of(target: Target) -> int | None:
    if target.facts.context_window:
        return target.facts.context_window
    listed = listings.models_of(target.provider).get(target.model)
    return listed.context_window if listed is not None else None


def read_history(place: Place, policy: str, room: Room | None, *, unfinished: bool) -> Transcript:
    """Raises InvalidRequest where the conversation is longer than the window and its policy is to
    say so, or where what is asked now does not fit alone. `unfinished`: what is asked now answers
    calls of the last turn."""
    session = place.session
    if room is None:
        return transcripts.read_all(session)
    if room.budget < 0:
        raise _too_long(room, -room.budget)
    if (tokens := transcripts.count_tokens(session)) <= room.budget:
        return transcripts.read_all(session)
    if policy == Truncation.ERROR:
        raise _too_long(room, tokens - room.budget)
    return transcripts.read_recent(session, budget=room.budget, unfinished=unfinished)


def _too_long(room: Room, excess: int) -> InvalidRequest:
    return InvalidRequest(
        f"The conversation is about {excess} tokens longer than the model's window of "
        f"{room.window} allows. Set 'truncation' to drop_oldest or summarise, or compact the "
        "session.",
        param="messages",
        code="context_length_exceeded",
    )
