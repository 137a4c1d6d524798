"""Requests that are passed on to an upstream on the same wire, and their answers back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from chat.types import Usage

Relay = Literal["moderations", "images", "audio", "rerank", "files", "batches"]
"""Families of endpoints that an upstream has as a whole or not at all."""
RELAYS: frozenset[Relay] = frozenset(Relay.__args__)  # type: ignore[attr-defined]

NEVER_FORWARDED = frozenset({"api_key", "api_base", "base_url"})
"""Other gateways' fields for where and as whom to ask: a caller's must never meet ours (M43)."""


def forwardable(body: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    """A copy without NEVER_FORWARDED; `dropped` learns what was left out."""
    if NEVER_FORWARDED.isdisjoint(body):
        return body.copy()
    dropped |= NEVER_FORWARDED & body.keys()
    return {name: value for name, value in body.items() if name not in NEVER_FORWARDED}


ACCOUNT_WIDE: frozenset[Relay] = frozenset(("files", "batches"))
"""What lies in the upstream's account, where whoever may look sees everybody's."""


class Upload(Protocol):
    """A form on its way through. It can be sent once."""

    content_type: str

    def length(self, model: str | None) -> int | None:
        """Its size in bytes once `model` stands in it; None where its sender did not tell."""

    def pieces(self, model: str | None) -> AsyncGenerator[bytes]:
        """The form as it comes, with `model` in the place of the caller's."""


@dataclass(slots=True)
class RelayRequest:
    """A request to be passed on: at most one of `body` and `upload`."""

    relay: Relay
    method: str
    path: str
    """Below the upstream's base address, checked and ready to be sent."""
    model: str | None = None
    """The public name asked for; None where none is named."""
    body: dict[str, Any] | None = None
    upload: Upload | None = None
    size: int = 0
    dropped: set[str] = field(default_factory=set)

    @property
    def stream(self) -> bool:
        return self.body is not None and self.body.get("stream") is True

    @property
    def max_output_tokens(self) -> int | None:
        return None

    @property
    def once(self) -> bool:
        """Whether asking twice does more than asking once, or cannot be done."""
        return self.upload is not None or (self.relay in ACCOUNT_WIDE and self.method == "POST")


def usage_told(usage: object) -> Usage | None:
    """Token counts of an answer's `usage`, under any of the names OpenAI's endpoints and rerankers
    give them; None where it counts something else (seconds of audio, searches)."""
    if not isinstance(usage, dict):
        return None

    def count(*names: str) -> int | None:
        values = (usage.get(name) for name in names)
        return next((each for each in values if type(each) is int and each >= 0), None)

    prompt, output = (
        count("input_tokens", "prompt_tokens"),
        count("output_tokens", "completion_tokens"),
    )
    total = count("total_tokens")
    if prompt is None and output is None:
        prompt = total
    if prompt is None and output is None:
        return None
    return Usage(
        prompt_tokens=prompt or 0,
        completion_tokens=output or 0,
        total_tokens=(prompt or 0) + (output or 0),
    )
