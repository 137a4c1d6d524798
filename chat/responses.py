"""What adapters and the Responses wire share: batches of typed events."""

from __future__ import annotations

from typing import Any

from chat.types import Batch


class ResponsesBatch(Batch, gc=False):
    """Events of an upstream that speaks the Responses API itself; `wire` holds them all.

    `response` is the whole Response object, on the batch whose events end the stream. `failed` says
    that they tell of a failure, which the stream then raises: nobody need tell it again.
    """

    response: dict[str, Any] | None = None
    failed: bool = False
    sequence_number: int = -1
    """Of the last event."""
