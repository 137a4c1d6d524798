"""Sessions in the API's words: what a caller may say of one, and what it is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from chat.errors import InvalidRequest
from chat.requests import ChatParams
from gateway_api.named_tools import is_name
from sessions_app.session_rows import Session, SessionMessage, Truncation
from sessions_app.sessions import NewSession
from usage.fields import from_picodollars, usd_text

SETTINGS = ("system_prompt", "temperature", "max_tokens", "tools", "tool_execution")
COLUMNS = ("provider", "model", "truncation")
MAX_METADATA = 16_000
MAX_TEMPERATURE = 2
_LONGEST = {"provider": 100, "model": 300}
_OWN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_RESERVED = frozenset({"import"})
"""What stands in a session's place in an address of ours."""


def read_new(body: dict[str, Any]) -> NewSession:
    """Raises InvalidRequest naming the field."""
    require_known(body, {"id", "metadata", *COLUMNS, *SETTINGS})
    own_id = body.get("id")
    if own_id is not None and not (isinstance(own_id, str) and _OWN_ID.fullmatch(own_id)):
        raise _wrong("id", "1 to 100 letters, digits and the signs . _ : -")
    if own_id in _RESERVED:
        raise _wrong("id", "another name than that of an address")
    given = {name: value for name, value in body.items() if value is not None}
    changes = read_changes({name: value for name, value in given.items() if name != "id"})
    return NewSession(
        session_id=own_id or "",
        provider=changes.get("provider", ""),
        model=changes.get("model", ""),
        truncation=changes.get("truncation", Truncation.ERROR),
        settings=changes.get("settings", {}),
        metadata=changes.get("metadata", {}),
    )


def read_changes(body: dict[str, Any]) -> dict[str, Any]:
    """What `sessions.change` takes: columns, `metadata`, and `settings` in which null takes one
    out. Raises InvalidRequest naming the field."""
    require_known(body, {"metadata", *COLUMNS, *SETTINGS})
    for name, value in body.items():
        if value is not None:
            _CHECKS[name](name, value)
    _check_as_chat(body)
    changes: dict[str, Any] = {}
    changes |= {name: body[name] or "" for name in ("provider", "model") if name in body}
    if "truncation" in body:
        changes["truncation"] = body["truncation"] or Truncation.ERROR
    if "metadata" in body:
        changes["metadata"] = body["metadata"] or {}
    settings = {name: body[name] for name in SETTINGS if name in body}
    return {**changes, **({"settings": settings} if settings else {})}


def require_known(body: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(body.keys() - known)
    if unknown:
        raise InvalidRequest(
            f"There is no field '{unknown[0][:100]}' here; there are {', '.join(sorted(known))}.",
            param=unknown[0][:100],
            code="unknown_parameter",
        )


def _text(name: str, value: Any) -> None:
    most = _LONGEST[name]
    if not isinstance(value, str) or "\0" in value or len(value) > most:
        raise _wrong(name, f"a string of at most {most} characters")


def _prompt(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(name, "a string")


def _policy(name: str, value: Any) -> None:
    if value not in Truncation.values:
        raise _wrong(name, f"one of {', '.join(Truncation.values)}")


def _metadata(name: str, value: Any) -> None:
    if not isinstance(value, dict) or len(msgspec.json.encode(value)) > MAX_METADATA:
        raise _wrong(name, f"an object of at most {MAX_METADATA} bytes")


def _execution(name: str, value: Any) -> None:
    if value not in ("client", "server"):
        raise _wrong(name, "client or server")


def _temperature(name: str, value: Any) -> None:
    if isinstance(value, int | float) and not 0 <= value <= MAX_TEMPERATURE:
        raise _wrong(name, f"from 0 to {MAX_TEMPERATURE}")


def _limit(name: str, value: Any) -> None:
    if isinstance(value, int) and value < 1:
        raise _wrong(name, "at least 1")


def _as_chats_have_it(name: str, value: Any) -> None:
    """`_check_as_chat` looks at it."""


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "provider": _text,
    "model": _text,
    "truncation": _policy,
    "metadata": _metadata,
    "system_prompt": _prompt,
    "tool_execution": _execution,
    "temperature": _temperature,
    "max_tokens": _limit,
    "tools": _as_chats_have_it,
}


def _check_as_chat(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest where a chat would. Tools that are named stand for definitions, which
    are looked up at each turn."""
    names = ("temperature", "max_tokens", "tools")
    asked = {name: body[name] for name in names if body.get(name) is not None}
    if isinstance(asked.get("tools"), list):
        asked["tools"] = [tool for tool in asked["tools"] if not is_name(tool)]
    try:
        msgspec.convert({**asked, "messages": [{"role": "user", "content": ""}]}, ChatParams)
    except msgspec.ValidationError as error:
        told, _, place = str(error).partition(" - at `$.")
        raise InvalidRequest(f"{told}.", param=place.rstrip("`") or None) from None


def _wrong(name: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"'{name}' must be {wanted}.", param=name, code="invalid_value")


# --- what a caller is told ----------------------------------------------------------------------


def told(row: Session) -> dict[str, Any]:
    """A session without its messages. Money is a decimal string, in USD, of the priced requests."""
    return {
        "id": row.session_id,
        "object": "session",
        "provider": row.provider or None,
        "model": row.model or None,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
        "message_count": row.message_count,
        "total_tokens": row.total_tokens,
        "total_cost": usd_text(from_picodollars(row.total_picodollars)) or "0",
        "unpriced_requests": row.unpriced_requests,
        "truncation": row.truncation,
        **row.read_settings(),
        "metadata": row.read_metadata(),
    }


def told_message(row: SessionMessage) -> dict[str, Any]:
    """A message as it was said, and where it stands."""
    told = {**row.read(), "id": row.message_id, "created_at": row.created_at.isoformat()}
    if row.incomplete:
        told["status"] = "incomplete"
    if row.summary:
        told["summary"] = True
    if row.compacted:
        told["compacted"] = True
    return told


def public_model(row: Session) -> str | None:
    """The model of a session's chats as a request names it; None for the gateway's default."""
    if not row.model:
        return None
    if not row.provider or row.model.startswith(f"{row.provider}/"):
        return row.model
    return f"{row.provider}/{row.model}"
