"""Sessions out of one gateway and into another, or the same: JSON in which nothing is lost.

It holds neither the session's id, which is where it is and not what it is, nor what it cost, which
stays where it was spent. So what is exported of an import is the same, byte for byte.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import InvalidRequest
from chat.parsing import parse_object
from chat.requests import Message
from gateway_api.answers import Answer, AnyAnswer, json_answer
from gateway_api.async_view import read_parsed
from gateway_api.native import sessions_schema as schema
from gateway_api.native.session_fields import COLUMNS, SETTINGS, read_changes, told
from gateway_api.native.sessions import tell
from gateway_api.own import OwnView
from sessions_app.ids import is_id
from sessions_app.session_rows import Session, SessionMessage, Truncation
from sessions_app.sizes import tokens_of
from sessions_app.transfer import export, restore

KIND = "abstractcore.session"
VERSION = 1
_FLAGS = ("incomplete", "compacted", "summary")
_TEXTS = ("provider", "model")


class ExportSessionView(OwnView):
    @extend_schema(
        operation_id="export_session",
        summary="A session as one document",
        responses=schema.EXPORT_RESPONSES,
        tags=schema.TAG,
    )
    async def get(self, request: Request, session_id: str) -> AnyAnswer:
        session, messages = await self.own(export, session_id)
        return Answer(orjson.dumps(_document(session, messages)))


class ImportSessionView(OwnView):
    @extend_schema(
        operation_id="import_session",
        summary="A session out of a document",
        request=schema.IMPORT_REQUEST,
        responses=schema.NEW_RESPONSES,
        tags=schema.TAG,
    )
    async def post(self, request: Request) -> AnyAnswer:
        session, messages = await read_parsed(request, lambda raw: _read(parse_object(raw)))
        row = await self.own(restore, session, messages)
        tell("session_created", row, self.caller, request)
        return json_answer(told(row), status=201)


def _document(session: Session, messages: list[SessionMessage]) -> dict[str, Any]:
    return {
        "object": KIND,
        "version": VERSION,
        "created_at": session.created_at.isoformat(),
        "session": {
            **{name: getattr(session, name) for name in COLUMNS},
            **session.read_settings(),
            "metadata": session.read_metadata(),
        },
        "messages": [_exported(row) for row in messages],
    }


def _exported(row: SessionMessage) -> dict[str, Any]:
    return {
        "id": row.message_id,
        "number": row.number,
        "created_at": row.created_at.isoformat(),
        **{name: getattr(row, name) for name in (*_FLAGS, *_TEXTS)},
        "message": row.read(),
    }


def _read(body: dict[str, Any]) -> tuple[Session, list[SessionMessage]]:
    """Raises InvalidRequest naming the place."""
    if body.get("object") != KIND or body.get("version") != VERSION:
        raise InvalidRequest("This is no exported session.", param="object", code="invalid_value")
    told, messages = body.get("session"), body.get("messages")
    if not isinstance(told, dict) or not isinstance(messages, list):
        raise InvalidRequest("A session and its messages are needed.", param="session")
    changes = read_changes({name: value for name, value in told.items() if value != ""})
    session = Session(
        created_at=_moment(body.get("created_at"), "created_at"),
        provider=changes.get("provider", ""),
        model=changes.get("model", ""),
        truncation=changes.get("truncation", Truncation.ERROR),
        settings=orjson.dumps({name: told[name] for name in told if name in SETTINGS}).decode(),
        metadata=orjson.dumps(changes.get("metadata", {})).decode(),
    )
    rows = [_message(each, f"messages[{at}]") for at, each in enumerate(messages)]
    _check_numbers(rows)
    return session, rows


def _message(told: Any, place: str) -> SessionMessage:
    if not isinstance(told, dict):
        raise _wrong(place)
    number, message_id, body = told.get("number"), told.get("id"), told.get("message")
    if not isinstance(number, int) or not 0 < number < 2**53 or not isinstance(body, dict):
        raise _wrong(place)
    texts = {name: told.get(name, "") for name in _TEXTS}
    flags = {name: told.get(name, False) for name in _FLAGS}
    if not is_id(message_id) or not all(isinstance(each, str) for each in texts.values()):
        raise _wrong(place)
    if not all(isinstance(each, bool) for each in flags.values()):
        raise _wrong(place)
    if any("\0" in each or len(each) > 100 for each in (message_id, texts["provider"])):
        raise _wrong(place)
    if "\0" in texts["model"] or len(texts["model"]) > 200:
        raise _wrong(place)
    try:
        msgspec.convert(body, Message)
    except msgspec.ValidationError as error:
        raise _wrong(f"{place}.message", str(error)) from None
    return SessionMessage(
        number=number,
        message_id=message_id,
        role=body["role"],
        created_at=_moment(told.get("created_at"), f"{place}.created_at"),
        tokens=tokens_of(body),
        body=orjson.dumps(body).decode(),
        **texts,
        **flags,
    )


def _check_numbers(rows: list[SessionMessage]) -> None:
    numbers = [row.number for row in rows]
    ids = {row.message_id for row in rows}
    if numbers != sorted(set(numbers)) or len(ids) != len(rows):
        raise _wrong("messages", "each needs a number of its own, in order, and an id of its own")
    if any(row.number % 2 != row.summary for row in rows):
        raise _wrong("messages", "summaries have odd numbers, and what was said has even ones")


def _moment(value: Any, place: str) -> datetime:
    try:
        moment = parse_datetime(value) if isinstance(value, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it may be of the year 10000, or 0
        pass
    raise _wrong(place, "a time with its zone is needed")


def _wrong(place: str, why: str = "it is not as it was exported") -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{place}': {why}.", param=place, code="invalid_value")
