"""What a request stands on: the items it refers to, the history it goes on from, and the
credential that made either.

A provider that keeps a response itself is asked to go on from it, and only that provider (M40).
Any other is given the history in full, as it is stored here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import orjson

from chat.errors import InvalidRequest
from chat.parsing import convert
from chat.types import ChatParams, ChatRequest
from gateway_api.openai.responses.items import (
    OPAQUE,
    Item,
    for_another_upstream,
    made_by_provider,
    read_input,
    references,
    resolve_references,
)
from gateway_api.openai.responses.messages import Untranslatable
from gateway_api.openai.responses.params import Asked
from gateway_api.openai.responses.to_chat import chat_body
from providers.database import in_database
from providers.registry import adapter_class
from providers.routing import Plan
from providers.snapshot import Target
from sessions_app.models import ANSWERED, StoredResponse
from sessions_app.responses import (
    UnknownResponse,
    chain_of,
    conversation_of,
    find_items,
    providers_of_items,
)

_SAYABLE = ("message", "function_call", "function_call_output", "reasoning")
"""What of a history a chat completion can say; the runs of hosted tools left their results in the
messages behind them."""


@dataclass(slots=True)
class Context:
    """`items` are the request's own, with what they refer to in its place."""

    items: list[Item]
    history: list[StoredResponse] = field(default_factory=list)
    makers: dict[str, str] = field(default_factory=dict)
    """Which provider made an item, where only its maker can read it."""
    referred: bool = False
    """Whether the items are others than those that came."""

    @property
    def previous(self) -> StoredResponse | None:
        return self.history[-1] if self.history else None


async def load_context(owner: str, asked: Asked) -> Context:
    """Raises InvalidRequest for what is not the owner's, or is not there."""
    items = read_input(asked.params.input)
    refers = asked.params.previous_response_id or asked.params.conversation_id
    if not (refers or references(items) or made_by_provider(items)):
        return Context(items)
    return await in_database(_load, owner, asked, items)


def _load(owner: str, asked: Asked, items: list[Item]) -> Context:
    params = asked.params
    context = Context(items)
    if params.previous_response_id:
        context.history = _chain(owner, params.previous_response_id)
    elif params.conversation_id:
        context.history = conversation_of(owner, params.conversation_id)
    if named := references(items):
        context.items = resolve_references(items, find_items(owner, named))
        context.referred = True
    if made := made_by_provider(context.items):
        context.makers = providers_of_items(owner, made)
    return context


def _chain(owner: str, previous: str) -> list[StoredResponse]:
    try:
        chain = chain_of(owner, previous)
    except UnknownResponse as unknown:
        raise InvalidRequest(
            f"Previous response with id '{unknown.response_id[:200]}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        ) from None
    if chain[-1].status not in ANSWERED:
        raise InvalidRequest(
            f"The previous response cannot be gone on from: it is {chain[-1].status}.",
            param="previous_response_id",
            code="invalid_value",
        )
    return chain


@dataclass(slots=True)
class Prepared:
    """A request ready to be dispatched, once its targets are known."""

    asked: Asked
    context: Context
    request: ChatRequest
    refusal: Untranslatable | None
    pinned: bool = False
    """Whether the provider goes on from the response it keeps itself."""

    def narrow(self, plan: Plan) -> Plan:
        """The targets that can serve the request, and the native body they get. Raises
        Untranslatable when none can."""
        native = [target for target in plan.targets if speaks_responses(target)]
        kept_by = self._keepers(native)
        if kept_by:
            self.pinned = True
            targets: tuple[Target, ...] = tuple(kept_by)
        elif self.refusal is not None:
            if not native:
                raise self.refusal
            targets = tuple(native)
        else:
            targets = plan.targets
        targets = self._makers_first(targets)
        if native:
            self.request.native = self._native_body(targets)
        return dataclasses.replace(plan, targets=targets)

    def _keepers(self, native: list[Target]) -> list[Target]:
        previous = self.context.previous
        if previous is None or not (
            self.asked.params.previous_response_id and previous.upstream_id
        ):
            return []
        return [target for target in native if target.provider.name == previous.provider]

    def _makers_first(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        """Only the makers of what nobody else can read, if the plan has them."""
        makers = set(self.context.makers.values())
        kept = tuple(target for target in targets if target.provider.name in makers)
        return kept or targets

    def _native_body(self, targets: tuple[Target, ...]) -> dict[str, Any]:
        body = dict(self.asked.body)
        for ours in ("background", "conversation", "previous_response_id"):
            body.pop(ours, None)
        providers = {target.provider.name for target in targets}
        own = self._readable(self.context.items, providers)
        if self.context.referred or len(own) != len(self.context.items):
            body["input"] = own
        if self.pinned and self.context.previous is not None:
            body["previous_response_id"] = self.context.previous.upstream_id
        elif self.context.history:
            body["input"] = [*self._expanded(providers), *own]
        elif "previous_response_id" in self.asked.body:
            body["previous_response_id"] = self.asked.body["previous_response_id"]  # null
        return body

    def _readable(self, items: list[Item], providers: set[str]) -> list[Item]:
        """The items without what none of these providers can have made."""
        makers = self.context.makers
        return [
            item
            for item in items
            if makers.get(str(item.get("id")), "") in providers | {""}
            and not str(item.get("encrypted_content") or "").startswith(OPAQUE)
        ]

    def _expanded(self, providers: set[str]) -> list[Item]:
        items: list[Item] = []
        for row in self.context.history:
            theirs = row.native and providers == {row.provider}
            items += row.read_items() if theirs else for_another_upstream(row.read_items())
        return items


def speaks_responses(target: Target) -> bool:
    """Whether a target's upstream has the Responses API itself."""
    adapter = adapter_class(target.provider.kind)
    return adapter is not None and adapter.speaks_responses(target.provider.options)


def prepare(asked: Asked, context: Context) -> Prepared:
    """The request in the OpenAI shape where a chat completion can say it. Raises InvalidRequest
    for what is malformed whoever serves it."""
    earlier = [
        item for row in context.history for item in row.read_items() if item.get("type") in _SAYABLE
    ]
    places = ["previous_response_id"] * len(earlier)
    places += [f"input[{at}]" for at in range(len(context.items))]
    refusal = None
    size = asked.size
    try:
        body = chat_body(asked.params, [*earlier, *context.items], places)
        params = convert(body, ChatParams)
        size = len(orjson.dumps(body)) if earlier else size
    except Untranslatable as error:
        refusal = error
        params, body = _shell(asked), {}
    request = ChatRequest(
        params=params,
        body=body,
        size=size,
        wire="responses",
        native=asked.body,
        native_only=refusal is not None,
    )
    return Prepared(asked, context, request, refusal)


def _shell(asked: Asked) -> ChatParams:
    """What the pipeline asks of a request, where the chat shape cannot hold it."""
    fields = {"model": asked.params.model, "stream": asked.params.stream}
    limit = asked.params.max_output_tokens
    return convert(
        {**fields, "max_tokens": limit, "messages": [{"role": "user", "content": ""}]}, ChatParams
    )
