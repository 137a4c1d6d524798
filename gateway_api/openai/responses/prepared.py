"""A request in both of its forms, and who of a plan's targets can serve which."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import orjson

from chat.errors import GatewayError
from chat.parsing import convert
from chat.requests import ChatParams, ChatRequest, server_rounds
from gateway_api.openai.responses.context import Context
from gateway_api.openai.responses.items import OPAQUE, Item, for_another_upstream
from gateway_api.openai.responses.messages import Untranslatable
from gateway_api.openai.responses.params import Asked
from gateway_api.openai.responses.to_chat import chat_body
from providers import snapshot
from providers.http import HttpClient
from providers.registry import adapter_class
from providers.routing import Plan
from providers.snapshot import Target
from sessions_app.models import StoredResponse

_SAYABLE = ("message", "function_call", "function_call_output", "reasoning")
"""What of a history a chat completion can say; the runs of hosted tools left their results in the
messages behind them."""


@dataclass(slots=True)
class Prepared:
    """A request ready to be dispatched once its targets are known (`narrow`)."""

    asked: Asked
    context: Context
    request: ChatRequest
    pinned: bool = False
    """Whether the provider goes on from what it keeps itself."""

    def narrow(self, plan: Plan) -> Plan:
        """The targets that can serve the request; settles the native body they get. Raises
        GatewayError when none can."""
        native = [target for target in plan.targets if speaks_responses(target)]
        if self.request.native is None:  # the gateway goes on from the answers itself
            native = []
        keepers = self._keepers(native)
        targets = plan.targets
        if keepers:
            self.pinned, targets = True, tuple(keepers)
        elif self.context.missing is not None:
            raise self.context.missing
        elif self.request.native_only is not None:
            if not native:
                raise self.request.native_only
            targets = tuple(native)
        targets = self._makers_first(targets)
        if native:
            self.request.native = self._native_body({each.provider.name for each in targets})
        return dataclasses.replace(plan, targets=targets)

    def _keepers(self, native: list[Target]) -> list[Target]:
        kept_by = self.context.kept_by
        if kept_by == "":
            return native if len({target.provider.name for target in native}) == 1 else []
        return [target for target in native if target.provider.name == kept_by]

    def _makers_first(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        """Only the makers of what nobody else can read, if the plan has them."""
        makers = set(self.context.makers.values())
        kept = tuple(target for target in targets if target.provider.name in makers)
        return kept or targets

    def _native_body(self, providers: set[str]) -> dict[str, Any]:
        body = dict(self.asked.body)
        body.pop("background", None)
        own = self._readable(self.context.items, providers)
        if self.context.referred or len(own) != len(self.context.items):
            body["input"] = own
        if not self.pinned:
            body.pop("conversation", None)
            if self.context.earlier:
                body.pop("previous_response_id", None)
                body["input"] = [*self._expanded(providers), *own]
        elif self.context.kept_as:
            body["previous_response_id"] = self.context.kept_as
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
        for said in self.context.earlier:
            theirs = said.provider and providers == {said.provider}
            items += said.items if theirs else for_another_upstream(said.items)
        return items


def speaks_responses(target: Target) -> bool:
    """Whether a target's upstream has the Responses API itself."""
    adapter = adapter_class(target.provider.kind)
    return adapter is not None and adapter.speaks_responses(target.provider.options)


async def forget_upstream(row: StoredResponse, http: HttpClient) -> None:
    """Has the provider that keeps a response too delete it. Raises UpstreamError: what was not
    deleted there must not look as if it were."""
    provider = snapshot.current().providers.get(row.provider)
    if not row.upstream_id or provider is None or not provider.usable:
        return
    target = Target(provider, "")
    if speaks_responses(target):
        await snapshot.build_adapter(target, http).forget_response(row.upstream_id)


def prepare(asked: Asked, context: Context) -> Prepared:
    """The request in the OpenAI shape where a chat completion can say it. Raises InvalidRequest
    for what is malformed whoever serves it."""
    refusal: GatewayError | None = context.missing
    size = asked.size
    params, body = _shell(asked), {}
    earlier = [item for said in context.earlier for item in said.items]
    earlier = [item for item in earlier if item.get("type") in _SAYABLE]
    before = "conversation" if asked.params.conversation_id else "previous_response_id"
    places = [before] * len(earlier)
    places += [f"input[{at}]" for at in range(len(context.items))]
    try:
        translated = chat_body(asked.params, [*earlier, *context.items], places)
        if refusal is None:
            body, params = translated, convert(translated, ChatParams)
            size = len(orjson.dumps(body)) if earlier else size
    except Untranslatable as error:
        refusal = error
    request = ChatRequest(
        params=params,
        body=body,
        size=size,
        wire="responses",
        native=asked.body,
        native_only=refusal,
        server_rounds=server_rounds(asked.params),
    )
    return Prepared(asked, context, request)


def _shell(asked: Asked) -> ChatParams:
    """What the pipeline asks of a request, where the chat shape cannot hold it."""
    fields = {"model": asked.params.model, "stream": asked.params.stream}
    limit = asked.params.max_output_tokens
    return convert(
        {**fields, "max_tokens": limit, "messages": [{"role": "user", "content": ""}]}, ChatParams
    )
