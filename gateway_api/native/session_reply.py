"""What an answer leaves of itself in a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chat.folding import CompletionFolder
from chat.types import Batch
from gateway_api.exchange import Exchange
from gateway_api.tool_loop import BETWEEN_TURNS
from sessions_app.transcripts import Said

_KEPT = frozenset(
    {
        *("role", "content", "refusal", "tool_calls", "function_call", "annotations", "audio"),
        *("reasoning_content", "reasoning", "thinking_blocks", "name"),
    }
)
"""What of an answer's message is told to models again."""


def answer_of(
    exchange: Exchange,
    message: dict[str, Any],
    *,
    between: Sequence[dict[str, Any]] = (),
    incomplete: bool = False,
) -> list[Said]:
    """An answer as the session keeps it, after what was said `between` the question and it."""
    last = {**message, "content": _last_words(message.get("content"), between)}
    said = [_said(exchange, each) for each in between]
    return [*said, _said(exchange, last, incomplete=incomplete)]


def _said(exchange: Exchange, message: dict[str, Any], *, incomplete: bool = False) -> Said:
    if message.get("role") == "tool":
        return Said(message)
    body = {name: value for name, value in message.items() if name in _KEPT and value is not None}
    target = exchange.dispatch.target
    return Said(
        {"role": "assistant", "content": None, **body},
        provider=target.provider.name,
        model=target.model,
        incomplete=incomplete,
    )


def _last_words(content: Any, between: Sequence[dict[str, Any]]) -> Any:
    """What a caller is told in one piece begins with what was said before the tools ran, which is
    kept where it was said."""
    if not isinstance(content, str):
        return content
    for message in between:
        before = message.get("content") if message["role"] == "assistant" else None
        if before and content.startswith(before):
            content = content[len(before) :].removeprefix(BETWEEN_TURNS)
    return content


class Listener:
    """Adds up a stream, as it passes."""

    def __init__(self) -> None:
        self._folder = CompletionFolder()
        self._between: list[dict[str, Any]] = []
        self._ended = False

    def hear(self, batch: Batch) -> None:
        for chunk in batch.chunks:
            self._folder.add(chunk)
            self._ended = self._ended or any(each.finish_reason for each in chunk.choices)
            if chunk.tool_messages:
                self._between = chunk.tool_messages

    def answer(self, exchange: Exchange) -> list[Said]:
        """The whole answer, after what tools said on the way to it."""
        return answer_of(exchange, self._message(), between=self._between)

    def part(self, exchange: Exchange) -> list[Said]:
        """What there is of an answer that broke off; nothing where it said nothing. A call that
        broke off is no call. Who leaves after the last word has heard it all."""
        if self._ended:
            return self.answer(exchange)
        message = self._message()
        message.pop("tool_calls", None)
        if not message.get("content"):
            return []
        return answer_of(exchange, message, incomplete=True)

    def _message(self) -> dict[str, Any]:
        choices = self._folder.completion()["choices"]
        return dict(choices[0]["message"]) if choices else {}
