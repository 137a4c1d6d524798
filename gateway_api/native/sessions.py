"""`/v1/sessions`: conversations the gateway keeps, each its key's own."""

from __future__ import annotations

import re
from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import Conflict, InvalidRequest
from chat.parsing import parse_object
from events_app.publishing import publish
from gateway_api import request_examples
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import parse_apart, read_json_body, read_optional
from gateway_api.named_tools import with_definitions
from gateway_api.native import sessions_schema as schema
from gateway_api.native.session_fields import read_changes, read_new, told, told_message
from gateway_api.own import OwnView
from gateway_api.pipeline import configuration_in_force
from keys.caller import Caller
from sessions_app import sessions, transcripts
from sessions_app.session_rows import Session
from sessions_app.sessions import SessionExists

DEFAULT_PAGE = 100
MAX_PAGE = 1000


class _SavingView(OwnView):
    """One that is told what a session is to be."""

    async def _said(self, request: Request) -> dict[str, Any]:
        """The body. Raises InvalidRequest for the name of no tool that the caller may use."""
        raw = await read_json_body(request)
        await with_definitions(raw, self.caller, form="chat")
        return await parse_apart(raw, parse_object)


class SessionsView(_SavingView):
    """The caller's own sessions, the newest first."""

    @extend_schema(
        operation_id="list_sessions",
        summary="Sessions",
        parameters=schema.LIST_PARAMETERS,
        responses=schema.LIST_RESPONSES,
        tags=schema.TAG,
    )
    async def get(self, request: Request) -> AnyAnswer:
        query = request.query_params
        rows, more = await self.own(
            sessions.page,
            _labels(query),
            after=_cursor(query),
            limit=_limit(query),
        )
        return json_answer(
            {
                "object": "list",
                "data": [told(row) for row in rows],
                "has_more": more,
                "next_cursor": str(rows[-1].pk) if more else None,
            }
        )

    @extend_schema(
        operation_id="create_session",
        summary="Begin a session",
        request=schema.NEW_REQUEST,
        examples=request_examples.SESSION,
        responses=schema.NEW_RESPONSES,
        tags=schema.TAG,
    )
    async def post(self, request: Request) -> AnyAnswer:
        new = read_new(await self._said(request))
        try:
            row = await self.own(sessions.make, new)
        except SessionExists:
            raise Conflict(
                f"There is a session with the id '{new.session_id}' already.",
                param="id",
                code="session_exists",
            ) from None
        tell("session_created", row, self.caller, request)
        return json_answer(told(row), status=201)


class SessionView(_SavingView):
    """One session."""

    @extend_schema(
        operation_id="get_session",
        summary="A session and its messages",
        parameters=schema.PAGE_PARAMETERS,
        responses=schema.GET_RESPONSES,
        tags=schema.TAG,
    )
    async def get(self, request: Request, session_id: str) -> AnyAnswer:
        query = request.query_params
        page = await self.own(
            transcripts.read_page,
            session_id,
            after=query.get("after"),
            limit=_limit(query),
            compacted=query.get("include") == "compacted",
        )
        return json_answer(
            {
                **told(page.session),
                "messages": [told_message(row) for row in page.messages],
                "has_more": page.more,
                "next_cursor": page.messages[-1].message_id if page.more else None,
            }
        )

    @extend_schema(
        operation_id="change_session",
        summary="Change a session",
        description="Also its provider, in the middle of the conversation. Null takes a setting "
        "out.",
        request=schema.CHANGE_REQUEST,
        responses=schema.CHANGE_RESPONSES,
        tags=schema.TAG,
    )
    async def patch(self, request: Request, session_id: str) -> AnyAnswer:
        changes = read_changes(await self._said(request))
        if "provider" not in changes and _says_where(changes.get("model", "")):
            changes["provider"] = ""
        return json_answer(told(await self.own(sessions.change, session_id, changes)))

    @extend_schema(
        operation_id="delete_session",
        summary="Delete a session",
        responses=schema.DELETE_RESPONSES,
        tags=schema.TAG,
    )
    async def delete(self, request: Request, session_id: str) -> AnyAnswer:
        row = await self.own(transcripts.find, session_id)
        await self.own(sessions.forget, session_id)
        tell("session_deleted", row, self.caller, request)
        return json_answer({"status": "deleted", "session_id": session_id})


class ForkSessionView(OwnView):
    """A session that begins as another did."""

    @extend_schema(
        operation_id="fork_session",
        summary="Branch a session off",
        request=schema.FORK_REQUEST,
        responses=schema.NEW_RESPONSES,
        tags=schema.TAG,
    )
    async def post(self, request: Request, session_id: str) -> AnyAnswer:
        at = (await read_optional(request)).get("at")
        if at is not None and not isinstance(at, str):
            raise InvalidRequest("'at' must be a message's id.", param="at", code="invalid_type")
        row = await self.own(sessions.fork, session_id, at=at)
        tell("session_created", row, self.caller, request)
        return json_answer(told(row), status=201)


def _says_where(model: str) -> bool:
    """Whether a model's name says by itself where it is asked, whatever provider stood there."""
    known = configuration_in_force()
    provider, slash, _ = model.partition("/")
    return model in known.routes or (bool(slash) and provider in known.providers)


def tell(type_: str, row: Session, caller: Caller, request: Request) -> None:
    """Publishes what became of a session."""
    http_request: Any = request._request
    publish(
        type_,
        request_id=http_request.request_id,
        key=caller.name,
        session_id=row.session_id,
        provider=row.provider,
        model=row.model,
    )


# --- parameters ---------------------------------------------------------------------------------


def _limit(query: QueryDict) -> int:
    told = str(query.get("limit", DEFAULT_PAGE))
    if not re.fullmatch("[0-9]{1,4}", told) or not 1 <= int(told) <= MAX_PAGE:
        raise InvalidRequest(f"'limit' must be from 1 to {MAX_PAGE}.", param="limit")
    return int(told)


def _cursor(query: QueryDict) -> int | None:
    after = query.get("after")
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise InvalidRequest("'after' is not a cursor of this list.", param="after")
    return int(after)


def _labels(query: QueryDict) -> dict[str, str]:
    """`metadata[project]=x`."""
    found = {}
    for name in query:
        if name.startswith("metadata[") and name.endswith("]"):
            label, value = name[len("metadata[") : -1], str(query[name])
            if "\0" in label + value:
                raise InvalidRequest("No metadata holds a NUL.", param=name[:100])
            found[label] = value
    if len(found) > 5:
        raise InvalidRequest("At most 5 values of metadata can be asked for.", param="metadata")
    return found
