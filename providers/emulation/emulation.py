"""What an emulation is: one missing capability imitated for one request at one target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from chat.errors import GatewayError
from chat.parsing import convert
from chat.requests import ChatParams, ChatRequest
from chat.types import Batch, Reply


@dataclass(slots=True)
class AskAgain(Exception):
    """An answer that will not do, where the model may do better: it is asked once more with what
    it said and what was wrong with that."""

    error: str
    """For the event `validation_failed`; holds nothing of the prompt or the answer."""
    said: str
    feedback: str

    def continued(self, request: ChatRequest) -> ChatRequest:
        """`request` with the answer and the complaint at the end of its conversation."""
        messages = [
            *request.body["messages"],
            {"role": "assistant", "content": self.said},
            {"role": "user", "content": self.feedback},
        ]
        return rewritten(request, {**request.body, "messages": messages})


class Emulation(ABC):
    """Lives as long as one request is at one target: through its retries and through each further
    asking, so that it may count them."""

    needs_whole = False
    """Whether nothing of an answer may be shown before all of it is there and has been restored.
    A stream is then asked for whole, and unfolded."""

    @abstractmethod
    def prepare(self, request: ChatRequest) -> ChatRequest:
        """A copy (`rewritten`) that asks for the same without the capability. Notes its name in
        `request.emulated`. Raises InvalidRequest for what cannot be imitated."""

    @abstractmethod
    def restore(self, reply: Reply) -> Reply:
        """A whole answer as the capability would have given it; `reply` is in the OpenAI shape.
        Raises AskAgain, and GatewayError where asking again is no use (any more)."""

    @abstractmethod
    def begin(self) -> Restorer:
        """What restores one stream."""

    def take_notes(self) -> list[str]:
        """What was wrong with an answer that is given all the same, each once, in words that hold
        nothing of the answer."""
        return []


class Restorer(ABC):
    """Restores the batches of one stream as they come. `failure` is set once the answer will not
    do; what `feed` or `finish` gave with it is shown before it is told, and nothing is fed after.
    """

    failure: GatewayError | None = None

    @abstractmethod
    def feed(self, batch: Batch) -> Batch | None:
        """What can be shown now."""

    @abstractmethod
    def finish(self) -> Batch | None:
        """What was held back to the end."""


def rewritten(request: ChatRequest, body: dict[str, Any]) -> ChatRequest:
    """A copy that asks `body`, to be translated for an upstream on any wire; the sets of what was
    dropped and emulated stay the caller's. Raises what keeps the request to its own wire."""
    if request.native_only is not None:
        raise request.native_only
    return replace(request, params=convert(body, ChatParams), body=body, native=None)
