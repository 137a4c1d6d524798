"""`/v1/conversations`: what `conversation` in a Responses request names."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from msgspec import Struct
from rest_framework.request import Request

from chat.errors import NotFound
from chat.parsing import convert, parse_object
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView, read_json_body
from gateway_api.openai.responses import schema
from gateway_api.openai.responses.items import new_id, read_input, with_ids
from gateway_api.openai.responses.messages import messages_from
from gateway_api.openai.responses.pages import page_of
from providers.database import in_database
from sessions_app.conversations import (
    UnknownConversation,
    find,
    forget,
    make,
    said_in,
    set_metadata,
)
from sessions_app.models import Conversation

TAG = ["OpenAI wire"]


class ConversationParams(Struct):
    items: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None


class ConversationsView(AsyncAPIView):
    """A conversation that any model of any provider may go on in."""

    @extend_schema(
        operation_id="createConversation",
        summary="Create a conversation",
        request=schema.CONVERSATION_REQUEST,
        responses=schema.CONVERSATION,
        tags=TAG,
    )
    async def post(self, request: Request) -> AnyAnswer:
        params = convert(parse_object(await read_json_body(request)), ConversationParams)
        items = read_input(params.items, name="items")
        messages_from(items, [f"items[{at}]" for at in range(len(items))])
        row = await in_database(
            make, self.caller.name, new_id("conv"), params.metadata or {}, with_ids(items)
        )
        return json_answer(_told(row))


class ConversationView(AsyncAPIView):
    """One conversation of the caller's own; another's does not exist."""

    @extend_schema(
        operation_id="getConversation",
        summary="A conversation",
        responses=schema.CONVERSATION,
        tags=TAG,
    )
    async def get(self, request: Request, conversation_id: str) -> AnyAnswer:
        return json_answer(_told(await self._found(find, conversation_id)))

    @extend_schema(
        operation_id="updateConversation",
        summary="Set a conversation's metadata",
        request=schema.CONVERSATION_REQUEST,
        responses=schema.CONVERSATION,
        tags=TAG,
    )
    async def post(self, request: Request, conversation_id: str) -> AnyAnswer:
        params = convert(parse_object(await read_json_body(request)), ConversationParams)
        row = await self._found(set_metadata, conversation_id, params.metadata or {})
        return json_answer(_told(row))

    @extend_schema(
        operation_id="deleteConversation",
        summary="Delete a conversation",
        responses=schema.CONVERSATION_DELETED,
        tags=TAG,
    )
    async def delete(self, request: Request, conversation_id: str) -> AnyAnswer:
        await self._found(forget, conversation_id)
        return json_answer(
            {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
        )

    async def _found(self, look: Any, conversation_id: str, *rest: Any) -> Any:
        try:
            return await in_database(look, self.caller.name, conversation_id, *rest)
        except UnknownConversation:
            raise _not_found(conversation_id) from None


class ConversationItemsView(AsyncAPIView):
    """What was said in a conversation."""

    @extend_schema(
        operation_id="listConversationItems",
        summary="Items of a conversation",
        parameters=schema.ITEM_PARAMETERS,
        responses=schema.ITEMS,
        tags=TAG,
    )
    async def get(self, request: Request, conversation_id: str) -> AnyAnswer:
        items = await in_database(_items, self.caller.name, conversation_id)
        return json_answer(page_of(items, request.query_params))


def _items(owner: str, conversation_id: str) -> list[dict[str, Any]]:
    try:
        find(owner, conversation_id)
    except UnknownConversation:
        raise _not_found(conversation_id) from None
    return said_in(owner, conversation_id).items()


def _told(row: Conversation) -> dict[str, Any]:
    return {
        "id": row.conversation_id,
        "object": "conversation",
        "created_at": int(row.created_at.timestamp()),
        "metadata": row.read_metadata(),
    }


def _not_found(conversation_id: str) -> NotFound:
    return NotFound(
        f"Conversation with id '{conversation_id[:200]}' not found.", param="conversation_id"
    )
