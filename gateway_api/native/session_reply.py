"""What a turn of a session leaves behind: messages, and what they cost."""

from __future__ import annotations

from typing import Any

from chat.folding import CompletionFolder
from chat.types import Batch
from gateway_api.exchange import Exchange
from gateway_api.native.session_turn import lost
from providers.database import in_database
from sessions_app import transcripts
from sessions_app.transcripts import Bill, Said
from sessions_app.turns import Place, TurnLost

_KEPT = frozenset(
    {
        *("role", "content", "refusal", "tool_calls", "function_call", "annotations", "audio"),
        *("reasoning_content", "reasoning", "thinking_blocks", "name"),
    }
)
"""What of an answer's message is told to models again."""


def bill_of(exchange: Exchange) -> Bill:
    """What the ledger's line says."""
    line = exchange.closed
    if line is None:
        return Bill()
    return Bill(line.tokens_input + line.tokens_output, line.cost_picodollars or 0)


def answer_of(exchange: Exchange, message: dict[str, Any], *, incomplete: bool = False) -> Said:
    """An answer's message as the session keeps it."""
    body = {name: value for name, value in message.items() if name in _KEPT and value is not None}
    target = exchange.dispatch.target
    return Said(
        {"role": "assistant", "content": None, **body},
        provider=target.provider.name,
        model=target.model,
        incomplete=incomplete,
    )


async def keep_turn(place: Place, said: list[Said], bill: Bill) -> None:
    """Raises Conflict where the session went on meanwhile, or is gone."""
    try:
        await in_database(transcripts.append, place, said, bill)
    except TurnLost:
        raise lost() from None


class Listener:
    """Adds up a stream, as it passes."""

    def __init__(self) -> None:
        self._folder = CompletionFolder()
        self._between: list[dict[str, Any]] = []

    def hear(self, batch: Batch) -> None:
        for chunk in batch.chunks:
            self._folder.add(chunk)
            if chunk.tool_messages:
                self._between = chunk.tool_messages

    def answer(self, exchange: Exchange) -> list[Said]:
        """The whole answer, after what tools said on the way to it."""
        between = [Said(message) for message in self._between]
        return [*between, answer_of(exchange, self._message())]

    def part(self, exchange: Exchange) -> list[Said]:
        """What there is of an answer that broke off; nothing where it said nothing. A call that
        broke off is no call."""
        message = self._message()
        message.pop("tool_calls", None)
        if not message.get("content"):
            return []
        return [answer_of(exchange, message, incomplete=True)]

    def _message(self) -> dict[str, Any]:
        choices = self._folder.completion()["choices"]
        return dict(choices[0]["message"]) if choices else {}
