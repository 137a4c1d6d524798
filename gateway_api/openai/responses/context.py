"""What a request stands on: the items it refers to, the history it goes on from, and the
credential that made either.

A provider that keeps a response or a conversation itself is asked to go on from it, and only that
provider (M40). Any other is given the history in full, as it is stored here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chat.errors import GatewayError, InvalidRequest, NotFound
from gateway_api.openai.responses.items import (
    Item,
    made_by_provider,
    read_input,
    references,
    resolve_references,
)
from gateway_api.openai.responses.params import Asked
from providers.database import in_database
from sessions_app.conversations import UnknownConversation, said_in
from sessions_app.history import Earlier, turn_of
from sessions_app.ids import is_id
from sessions_app.models import ANSWERED
from sessions_app.responses import (
    UnknownResponse,
    chain_of,
    find,
    find_items,
    is_known,
    providers_of_items,
)


@dataclass(slots=True)
class Context:
    """`items` are the request's own, with what they refer to in its place."""

    items: list[Item]
    referred: bool = False
    """Whether the items are others than those that came."""
    earlier: list[Earlier] = field(default_factory=list)
    """What was said before."""
    makers: dict[str, str] = field(default_factory=dict)
    """Which provider made an item, where only its maker can read it."""
    kept_by: str | None = None
    """The provider that keeps the history itself: empty where it is not known which, None where
    nobody does."""
    kept_as: str = ""
    """The previous response's id there."""
    missing: GatewayError | None = None
    """Why the history cannot be given in full to another."""


async def load_context(owner: str, asked: Asked) -> Context:
    """Raises InvalidRequest and NotFound for what is not the owner's, or is not there."""
    items = read_input(asked.params.input)
    refers = asked.params.previous_response_id or asked.params.conversation_id
    if not (refers or references(items) or made_by_provider(items)):
        return Context(items)
    return await in_database(_load, owner, asked, items)


def _load(owner: str, asked: Asked, items: list[Item]) -> Context:
    params = asked.params
    context = Context(items)
    if params.previous_response_id:
        _load_chain(context, owner, params.previous_response_id)
    elif params.conversation_id:
        _load_conversation(context, owner, params.conversation_id)
    if named := references(items):
        context.items = resolve_references(items, find_items(owner, named))
        context.referred = True
    if made := made_by_provider(context.items):
        context.makers = providers_of_items(owner, made)
    return context


def _load_chain(context: Context, owner: str, previous: str) -> None:
    try:
        rows = chain_of(owner, previous)
    except UnknownResponse as unknown:
        context.missing = _no_response(unknown.name)
        if unknown.name != previous:  # the provider may still have what is missing here
            rows = [find(owner, previous)]
        elif not is_id(previous) or is_known(previous):
            raise context.missing from None
        else:  # made before the gateway was, or kept longer there than here
            context.kept_by, context.kept_as = "", previous
            return
    last = rows[-1]
    if last.status not in ANSWERED:
        raise InvalidRequest(
            f"The previous response cannot be gone on from: it is {last.status}.",
            param="previous_response_id",
            code="invalid_value",
        )
    if last.upstream_id:
        context.kept_by, context.kept_as = last.provider, last.upstream_id
    context.earlier = [turn_of(row) for row in rows]


def _load_conversation(context: Context, owner: str, conversation: str) -> None:
    try:
        said = said_in(owner, conversation)
    except UnknownConversation:
        raise _no_conversation(conversation) from None
    context.earlier, context.kept_by = said.earlier, said.kept_by
    if said.kept_by == "":
        context.missing = _no_conversation(conversation)


def _no_response(response_id: str) -> GatewayError:
    return InvalidRequest(
        f"Previous response with id '{response_id[:200]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def _no_conversation(conversation: str) -> GatewayError:
    return NotFound(
        f"Conversation with id '{conversation[:200]}' not found.",
        param="conversation",
        code="conversation_not_found",
    )
