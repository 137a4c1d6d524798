"""A call of a tool, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools_app.snapshot import ToolFacts

MAX_RESULT = 1 << 20
"""Bytes of a result: more than any model reads."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call whose arguments fit the tool's schema."""

    tool: ToolFacts
    arguments: dict[str, Any]
    call_id: str
    request_id: str
    session_id: str | None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads, and where the call failed one word for it that may be told anyone:
    `invalid_arguments`, `timeout`, `outbound`, `dns`, `network`, `tls`, `protocol`, `status`,
    `unreadable`, `too_large`, `tool_error`, `not_runnable`, `not_configured`, `failed`."""

    text: str
    error: str | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None
