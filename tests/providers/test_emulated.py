"""Emulations around an adapter: further askings, what they cost, and whose doing is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from chat.errors import GatewayError, ToolChoiceNotMet, UpstreamFailed
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from chat.types import Batch, ChatChunk, ChunkChoice, Delta, ModelInfo, Reply, Usage
from providers import dispatch as dispatching
from providers.adapters.base import ChatAdapter, Endpoint
from providers.dispatch import Dispatch
from providers.emulated import Validation
from providers.emulation.emulation import AskAgain, Emulation, Restorer, rewritten
from providers.http import HttpClient, Timeouts
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.routing import Plan
from providers.snapshot import ProviderFacts, Snapshot, Target

pytestmark = pytest.mark.once
Said = str | GatewayError


class Model(ChatAdapter):
    """Says one thing after another, each for 10 tokens in and 5 out, and drops a field."""

    kind = "model"

    def __init__(self, http: HttpClient, drops: str, *said: Said, counts: bool = True) -> None:
        super().__init__(Endpoint(base_url="", api_key="", model="m"), http)
        self.drops = drops
        self.said = list(said)
        self.usage = Usage(10, 5, 15) if counts else None
        self.bodies: list[dict[str, Any]] = []

    def _next(self, request: ChatRequest) -> str:
        self.bodies.append(request.body)
        request.dropped.add(self.drops)
        said = self.said.pop(0)
        if isinstance(said, GatewayError):
            raise said
        return said

    async def complete(self, request: ChatRequest) -> Reply:
        said = self._next(request)
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = orjson.dumps({"id": "x", "choices": [choice], "usage": None})
        return Reply(body, "stop", self.usage, text_bytes=len(said))

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        for letter in self._next(request):
            choice = ChunkChoice(index=0, delta=Delta(content=letter))
            yield Batch([ChatChunk(choices=[choice])], b"wire")
        yield Batch([ChatChunk(choices=[], usage=self.usage)], b"wire")

    async def list_models(self) -> list[ModelInfo]:
        return []


class Shout(Emulation):
    """Lets no answer pass that has a small letter; gives up after `tries`."""

    def __init__(self, *, tries: int = 2, whole: bool = False) -> None:
        self.tries = tries
        self.needs_whole = whole

    def prepare(self, request: ChatRequest) -> ChatRequest:
        request.emulated.add("shout")
        return rewritten(request, {**request.body, "max_tokens": 7})

    def restore(self, reply: Reply) -> Reply:
        said = orjson.loads(reply.body)["choices"][0]["message"]["content"]
        if said.isupper():
            return reply
        self.tries -= 1
        if self.tries:
            raise AskAgain("too quiet", said, "louder")
        raise ToolChoiceNotMet("too quiet")

    def begin(self) -> Restorer:
        return Listener()


class Listener(Restorer):
    def feed(self, batch: Batch) -> Batch | None:
        for chunk in batch.chunks:
            if any(not (choice.delta.content or "A").isupper() for choice in chunk.choices):
                self.failure = ToolChoiceNotMet("too quiet")
                return None
        return batch

    def finish(self) -> Batch | None:
        return None


@pytest.fixture
def http() -> HttpClient:
    return HttpClient(OutboundGuard(OutboundPolicy.for_providers(())))


def dispatch(monkeypatch: pytest.MonkeyPatch, shout: Shout, *models: Model) -> Dispatch:
    """A request on its way to these; only the first lacks what `shout` imitates."""
    monkeypatch.setattr(
        dispatching, "plan", lambda *_, model: [shout] if model == "m" else [], raising=True
    )
    facts = ProviderFacts("p", "model", True, "", "", Timeouts(), 0, {})
    snapshot = Snapshot(1, {"p": facts}, {}, {})
    targets = []
    for number, model in enumerate(models):
        name = f"m{number}" if number else "m"
        model.endpoint = Endpoint(base_url="", api_key="", model=name)
        snapshot._adapters["p", name] = model
        targets.append(Target(facts, name))
    request = parse_chat_request(
        b'{"messages":[{"role":"user","content":"hi"}],"response_format":{"type":"text"}}'
    )
    return Dispatch(snapshot, models[0].http, Plan("smart", tuple(targets)), request)


async def streamed(sent: Dispatch) -> list[ChatChunk]:
    return [chunk async for batch in sent.stream() for chunk in batch.chunks]


def text_of(chunks: list[ChatChunk]) -> str:
    return "".join(choice.delta.content or "" for c in chunks for choice in c.choices)


async def test_an_answer_that_will_not_do_is_asked_for_again_with_what_was_wrong(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(http, "x", "quiet", "LOUD")
    sent = dispatch(monkeypatch, Shout(), model)
    reply = await sent.complete()
    assert orjson.loads(reply.body)["choices"][0]["message"]["content"] == "LOUD"
    assert model.bodies[0]["messages"] == [{"role": "user", "content": "hi"}]
    assert model.bodies[1]["messages"][1:] == [
        {"role": "assistant", "content": "quiet"},
        {"role": "user", "content": "louder"},
    ]
    assert model.bodies[1]["max_tokens"] == 7
    assert sent.attempts == 2
    assert sent.validations == [Validation(1, "too quiet")]


async def test_the_tokens_of_every_asking_are_told(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = dispatch(monkeypatch, Shout(tries=3), Model(http, "x", "a", "b", "LOUD"))
    reply = await sent.complete()
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (30, 15)
    assert orjson.loads(reply.body)["usage"]["total_tokens"] == 45


async def test_where_an_upstream_counts_nothing_what_was_thrown_away_is_estimated(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = dispatch(monkeypatch, Shout(), Model(http, "x", "quiet", "LOUD", counts=False))
    usage = (await sent.complete()).usage
    assert usage is not None
    assert usage.estimated is True
    assert usage.prompt_tokens == 2 * (sent.request.size // 4)
    assert usage.completion_tokens == 2 + 1


async def test_what_was_spent_on_no_answer_is_kept(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = dispatch(monkeypatch, Shout(), Model(http, "x", "a", "b"))
    with pytest.raises(ToolChoiceNotMet):
        await sent.complete()
    assert sent.spent is not None
    assert (sent.spent.prompt_tokens, sent.spent.completion_tokens) == (20, 10)
    assert [each.attempt for each in sent.validations] == [1, 2]


async def test_a_stream_shows_what_is_good_then_its_cost_then_fails(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = dispatch(monkeypatch, Shout(), Model(http, "x", "Ab"))
    shown = []
    with pytest.raises(ToolChoiceNotMet):
        async for batch in sent.stream():
            shown += batch.chunks
    assert text_of(shown) == "A"
    assert shown[-1].usage is not None, "what was billed so far must reach the ledger"
    assert sent.validations == [Validation(1, "too quiet")]


async def test_an_emulation_may_want_the_whole_answer_before_any_of_it_is_streamed(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(http, "x", "quiet", "LOUD")
    chunks = await streamed(dispatch(monkeypatch, Shout(whole=True), model))
    assert text_of(chunks) == "LOUD"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 20
    assert not any("stream" in body for body in model.bodies)


@pytest.mark.parametrize("stream", [False, True])
async def test_after_a_fallback_only_the_answering_targets_doings_are_told(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    first = Model(http, "first's", UpstreamFailed("down"))
    second = Model(http, "second's", "quiet")
    sent = dispatch(monkeypatch, Shout(), first, second)
    request = sent.request
    assert isinstance(request, ChatRequest)
    request.dropped.add("caller's")
    if stream:
        assert text_of(await streamed(sent)) == "quiet"
    else:
        await sent.complete()
    assert request.dropped == {"caller's", "second's"}
    assert request.emulated == set()
    assert "max_tokens" not in second.bodies[0]


async def test_what_needs_no_emulation_passes_through_untouched(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Model(http, "x", UpstreamFailed("down")), Model(http, "x", "hi")
    sent = dispatch(monkeypatch, Shout(), first, second)
    assert all([batch.wire == b"wire" async for batch in sent.stream()])
