"""`/v1/conversations`: what `conversation` in a Responses request names."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from drf_spectacular.utils import extend_schema
from msgspec import Meta, Struct
from rest_framework.request import Request

from chat.errors import InvalidRequest
from chat.parsing import convert, parse_object
from gateway_api import request_examples
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import read_parsed
from gateway_api.openai.responses import schema
from gateway_api.openai.responses.items import Item, read_input, with_ids
from gateway_api.openai.responses.messages import check_item
from gateway_api.openai.responses.pages import list_of, page_of
from gateway_api.own import OwnView, deleted
from sessions_app.conversations import (
    DuplicateItem,
    add_items,
    find,
    find_item,
    forget,
    forget_item,
    item_ids,
    make,
    read_items,
    set_metadata,
)
from sessions_app.ids import is_id
from sessions_app.models import Conversation

TAG = ["OpenAI wire"]
_Items = Annotated[list[dict[str, Any]], Meta(max_length=20)]
_Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
Params = TypeVar("Params", bound=Struct)


class ConversationParams(Struct):
    """Shapes and limits as in openai 3.54.0, `types/conversations/`."""

    items: _Items | None = None
    metadata: _Metadata | None = None


class MetadataParams(Struct):
    metadata: _Metadata | None


class ItemsParams(Struct):
    items: _Items


async def _read(request: Request, params: type[Params]) -> Params:
    """Raises InvalidRequest naming `param`."""
    return await read_parsed(request, lambda raw: convert(parse_object(raw), params))


class ConversationsView(OwnView):
    """A conversation that any model of any provider may go on in."""

    @extend_schema(
        operation_id="createConversation",
        summary="Create a conversation",
        request=schema.CONVERSATION_REQUEST,
        examples=request_examples.CONVERSATION,
        responses=schema.CONVERSATION,
        tags=TAG,
    )
    async def post(self, request: Request) -> AnyAnswer:
        params = await _read(request, ConversationParams)
        row = await self.own(make, params.metadata or {}, _own_items(params.items))
        return json_answer(_told(row))


class ConversationView(OwnView):
    """One conversation of the caller's own."""

    @extend_schema(
        operation_id="getConversation",
        summary="A conversation",
        responses=schema.CONVERSATION,
        tags=TAG,
    )
    async def get(self, request: Request, conversation_id: str) -> AnyAnswer:
        return json_answer(_told(await self.own(find, conversation_id)))

    @extend_schema(
        operation_id="updateConversation",
        summary="Set a conversation's metadata",
        request=schema.METADATA_REQUEST,
        responses=schema.CONVERSATION,
        tags=TAG,
    )
    async def post(self, request: Request, conversation_id: str) -> AnyAnswer:
        params = await _read(request, MetadataParams)
        row = await self.own(set_metadata, conversation_id, params.metadata or {})
        return json_answer(_told(row))

    @extend_schema(
        operation_id="deleteConversation",
        summary="Delete a conversation",
        responses=schema.CONVERSATION_DELETED,
        tags=TAG,
    )
    async def delete(self, request: Request, conversation_id: str) -> AnyAnswer:
        await self.own(forget, conversation_id)
        return deleted(conversation_id, "conversation.deleted")


class ConversationItemsView(OwnView):
    """What was said in a conversation."""

    @extend_schema(
        operation_id="listConversationItems",
        summary="Items of a conversation",
        parameters=schema.ITEM_PARAMETERS,
        responses=schema.ITEMS,
        tags=TAG,
    )
    async def get(self, request: Request, conversation_id: str) -> AnyAnswer:
        ids = await self.own(item_ids, conversation_id)
        page = page_of([{"id": each} for each in ids], request.query_params)
        found = await self.own(read_items, conversation_id, [each["id"] for each in page["data"]])
        page["data"] = [found[each["id"]] for each in page["data"] if each["id"] in found]
        return json_answer(page)

    @extend_schema(
        operation_id="createConversationItems",
        summary="Add items to a conversation",
        request=schema.ITEMS_REQUEST,
        examples=request_examples.ITEMS,
        responses=schema.ITEMS,
        tags=TAG,
    )
    async def post(self, request: Request, conversation_id: str) -> AnyAnswer:
        params = await _read(request, ItemsParams)
        items = _own_items(params.items)
        try:
            await self.own(add_items, conversation_id, items)
        except DuplicateItem as duplicate:
            raise _twice(duplicate.name) from None
        return json_answer(list_of(items))


class ConversationItemView(OwnView):
    """One thing that was said in a conversation."""

    @extend_schema(
        operation_id="getConversationItem",
        summary="An item of a conversation",
        responses=schema.ITEM,
        tags=TAG,
    )
    async def get(self, request: Request, conversation_id: str, item_id: str) -> AnyAnswer:
        return json_answer(await self.own(find_item, conversation_id, item_id))

    @extend_schema(
        operation_id="deleteConversationItem",
        summary="Take an item out of a conversation",
        responses=schema.CONVERSATION,
        tags=TAG,
    )
    async def delete(self, request: Request, conversation_id: str, item_id: str) -> AnyAnswer:
        return json_answer(_told(await self.own(forget_item, conversation_id, item_id)))


def _own_items(sent: list[Item] | None) -> list[Item]:
    """The items as they are kept. Raises InvalidRequest for those no turn could begin with."""
    items = read_input(sent, name="items")
    taken: set[str] = set()
    for at, item in enumerate(items):
        place, name = f"items[{at}]", item.get("id")
        check_item(item, place)
        if name and not is_id(name):
            raise InvalidRequest(
                f"'{place}.id' must be 1 to 200 visible ASCII characters.", param=f"{place}.id"
            )
        if name in taken:
            raise _twice(name)
        taken |= {name} if name else set()
    return with_ids(items)


def _twice(name: str) -> InvalidRequest:
    return InvalidRequest(f"Duplicate item with id '{name}'.", param="items", code="invalid_value")


def _told(row: Conversation) -> dict[str, Any]:
    return {
        "id": row.conversation_id,
        "object": "conversation",
        "created_at": int(row.created_at.timestamp()),
        "metadata": row.read_metadata(),
    }
