"""What the journal's lines say has happened: a request's own lines are its events, so that no
second line has to be written, and none can be missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from events_app.lines import EventLine
from usage.fields import from_picodollars
from usage.lines import Closed, Line, Opened, Request
from usage.models import FAILURES, Status


def events_of(line: Line) -> Iterable[EventLine]:
    """The events a line stands for, in their order."""
    match line:
        case EventLine():
            return (line,)
        case Opened():
            return (_started(line),)
        case Closed(status=status) if status in FAILURES:
            return (_completed(line), _error(line))
        case Closed():
            return (_completed(line),)
    return ()


def _started(line: Opened) -> EventLine:
    told = {"stream": line.stream, "has_tools": line.has_tools, "route": line.route or None}
    return _event("generation_started", line, line.created_at, told)


def _completed(line: Closed) -> EventLine:
    cost = line.cost_picodollars
    told = {
        "success": line.status == Status.SUCCESS,
        "status": line.status,
        "tokens_input": line.tokens_input,
        "tokens_output": line.tokens_output,
        "tokens_cached": line.tokens_cached,
        "tokens_reasoning": line.tokens_reasoning,
        "cost_usd": None if cost is None else from_picodollars(cost),
        "duration_ms": line.duration_ms,
        "time_to_first_token_ms": line.time_to_first_token_ms,
        "finish_reason": line.finish_reason or None,
        "attempts": line.attempts,
    }
    return _event("generation_completed", line, _ended_at(line), told)


def _error(line: Closed) -> EventLine:
    code = line.error_code or line.status
    return _event("error", line, _ended_at(line), {"code": code, "endpoint": line.endpoint})


def _ended_at(line: Closed) -> float:
    return line.created_at + line.duration_ms / 1000


def _event(type_: str, line: Request, at: float, fields: dict[str, Any]) -> EventLine:
    return EventLine(
        id=line.id,
        type=type_,
        at=at,
        request_id=line.request_id,
        key=line.key,
        session_id=line.session_id,
        provider=line.provider,
        model=line.model,
        fields=fields,
    )
