"""A choice of tools for a model that has tools and takes no choice: only those it may call are
offered, it is told what it owes, and its answer is held to it."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from chat.requests import ChatRequest
from chat.types import Batch, Reply, ToolCallDelta
from providers.capabilities import Capabilities
from providers.emulation.emulation import Emulation, Restorer, rewritten
from providers.emulation.tool_choice import Offer, ToolPolicy, Withheld, no_call, read_offer
from providers.emulation.tool_prompt import with_instructions

_ONE = "Call one tool at most in an answer."


def lacks_choice(request: ChatRequest, capabilities: Capabilities) -> bool:
    """Whether a request narrows the use of its tools in a way that its target does not take."""
    params = request.params
    if not (params.tools and capabilities.tools):
        return False
    chooses = params.tool_choice not in (None, "auto") and not capabilities.tool_choice
    return chooses or (params.parallel_tool_calls is False and not capabilities.parallel_tools)


class ChosenTools(Emulation):
    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._policy = ToolPolicy()

    def prepare(self, request: ChatRequest) -> ChatRequest:
        offer = read_offer(request)
        body, told = dict(request.body), []
        demanded: frozenset[str] = frozenset()
        if not self._capabilities.tool_choice and body.pop("tool_choice", "auto") != "auto":
            request.emulated.add("tool_choice")
            demanded = offer.policy.demanded
            _narrow(body, offer)
            told += [offer.instruction] if offer.instruction is not None else []
        single = offer.policy.single and not self._capabilities.parallel_tools
        if single:
            request.emulated.add("parallel_tools")
            body.pop("parallel_tool_calls", None)
            told.append(_ONE)
        self._policy = ToolPolicy(demanded, single=single)
        if told:
            system_role = self._capabilities.system_role
            body["messages"] = with_instructions(
                body["messages"], " ".join(told), system_role=system_role
            )
        return rewritten(request, body)

    def restore(self, reply: Reply) -> Reply:
        answer = orjson.loads(reply.body)
        is_changed = False
        for message in (choice["message"] for choice in answer["choices"]):
            calls = message.get("tool_calls") or []
            kept = self._kept(calls)
            if self._policy.demanded and not kept:
                raise no_call()
            if len(kept) < len(calls):
                message["tool_calls"], is_changed = kept, True
        if not is_changed:
            return reply
        return msgspec.structs.replace(reply, body=orjson.dumps(answer))

    def _kept(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        for call in calls:
            name = (call.get("function") or {}).get("name") or ""
            if self._policy.admits(name, after=len(kept)):
                kept.append(call)
        return kept

    def begin(self) -> Restorer:
        return _ChoiceRestorer(self._policy)


def _narrow(body: dict[str, Any], offer: Offer) -> None:
    """Leaves the tools that may be called; the field goes where none may."""
    kept = [tool for tool in body["tools"] if tool["function"]["name"] in offer.tools]
    body["tools"] = kept
    if not kept:
        del body["tools"]
        body.pop("parallel_tool_calls", None)


class _ChoiceRestorer(Restorer):
    def __init__(self, policy: ToolPolicy) -> None:
        self._policy = policy
        self._withheld = Withheld(policy)
        self._places: dict[int, dict[int, int | None]] = {}
        """For each choice, where the upstream's calls went: None for what is left out."""

    def feed(self, batch: Batch) -> Batch | None:
        for choice in (choice for chunk in batch.chunks for choice in chunk.choices):
            places = self._places.setdefault(choice.index, {})
            calls = choice.delta.tool_calls or ()
            kept = [call for call in calls if self._place(call, places)]
            choice.delta.tool_calls = kept or None
        called = any(map(_has_call, self._places.values()))
        chunks = self._withheld.shown(batch.chunks, called=called)
        if self._withheld.is_too_much:
            self.failure = no_call()
        return Batch(chunks) if chunks else None

    def finish(self) -> Batch | None:
        if self._policy.demanded and not all(map(_has_call, self._places.values())):
            self.failure = no_call()
        return None

    def _place(self, call: ToolCallDelta, places: dict[int, int | None]) -> bool:
        """Gives a call its place among those that are shown; False for one that is not."""
        if call.index not in places:
            count = sum(place is not None for place in places.values())
            name = (call.function.name if call.function is not None else None) or ""
            places[call.index] = count if self._policy.admits(name, after=count) else None
        place = places[call.index]
        if place is not None:
            call.index = place
        return place is not None


def _has_call(places: dict[int, int | None]) -> bool:
    return any(place is not None for place in places.values())
