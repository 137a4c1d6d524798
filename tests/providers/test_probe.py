"""What a probe concludes from what an upstream answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chat.requests import EmbeddingsRequest
from chat.types import Reply
from providers import probe as probing
from providers.adapters.base import ChatAdapter, Endpoint
from providers.adapters.openai import OpenAICompatibleAdapter
from providers.capabilities import Capabilities
from providers.http import HttpClient, Timeouts
from providers.probe import Findings, probe
from tests.scripted_model import Model, call, question
from tests.upstream import (
    Asked,
    Peer,
    Upstream,
    completion,
    scripted_upstream,
    silence,
)

pytestmark = pytest.mark.once

MEASURED = {
    "streaming",
    "streaming_usage",
    "system_role",
    "tools",
    "tool_choice",
    "parallel_tools",
    "structured_output",
    "json_mode",
    "vision",
    "embeddings",
}


class EmbeddingAdapter(OpenAICompatibleAdapter):
    """The adapter with the embeddings of a server in the OpenAI wire."""

    async def embed(self, request: EmbeddingsRequest) -> Reply:
        reply = await self._post(f"{self.endpoint.base_url}/embeddings", request.body)
        return Reply(body=await reply.read(), finish_reason=None, usage=None)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


Probe = Callable[..., Any]


@pytest.fixture
def ask(upstream: Upstream, client: HttpClient) -> Probe:
    async def run(model: Model, kind: type[ChatAdapter] = EmbeddingAdapter) -> Findings:
        upstream.script = model.play
        endpoint = Endpoint(
            base_url=upstream.base_url,
            api_key="sk-canary-5f2b8c1d9e7a4036",
            model="m",
            timeouts=Timeouts(first_byte=5, idle=5, total=5),
            capabilities=Capabilities(tools=False, vision=False, streaming_usage=False),
        )
        return await probe(kind(endpoint, client))

    return run


def rejected(message: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    return 400, {"error": {"message": message, "type": "invalid_request_error", **fields}}


def unable(findings: Findings) -> set[str]:
    return {name for name, flag in findings.flags.items() if not flag}


async def test_an_able_model_is_found_able_whatever_was_believed(ask: Probe) -> None:
    model = Model()
    findings = await ask(model)
    assert findings.flags == dict.fromkeys(MEASURED, True)
    assert set(findings.evidence) == MEASURED
    assert findings.stopped is None
    assert 'with {"city": "Paris"}' in findings.evidence["tools"]
    assert "It named the colours" in findings.evidence["vision"]


async def test_a_probe_keeps_to_its_bounds(ask: Probe) -> None:
    model = Model()
    findings = await ask(model)
    assert len(model.bodies) == len(findings.asked) == 10
    for body in model.bodies:
        picture = len(json.dumps(body)) if question_of(body) == "vision" else 0
        assert (len(json.dumps(body)) - picture) / 4 < probing.PROMPT_TOKENS
        assert body.get("max_tokens", 0) <= probing.ANSWER_TOKENS
        assert "messages" not in body or "max_tokens" in body


def question_of(body: dict[str, Any]) -> str:
    return question(body) if "messages" in body else "embeddings"


async def test_at_worst_a_probe_asks_as_often_as_it_says(ask: Probe) -> None:
    failing: Any = (500, {"error": {"message": "boom"}})
    names = ("stream", "system", "tools", "tool_choice", "parallel_tools")
    model = Model(
        **dict.fromkeys((*names, "json_schema", "json_object", "vision", "embeddings"), failing)
    )
    findings = await ask(model)
    assert unable(findings) == MEASURED
    assert len(model.bodies) <= probing.MAX_REQUESTS


@pytest.mark.parametrize(
    ("asks", "flag"),
    [
        ("tools", "tools"),
        ("tool_choice", "tool_choice"),
        ("parallel_tools", "parallel_tools"),
        ("json_schema", "structured_output"),
        ("json_object", "json_mode"),
        ("vision", "vision"),
        ("system", "system_role"),
        ("embeddings", "embeddings"),
    ],
)
async def test_a_refusal_is_a_no_with_the_refusal_as_evidence(
    ask: Probe, asks: str, flag: str
) -> None:
    findings = await ask(Model(**{asks: rejected("this model knows no such thing")}))
    assert flag in unable(findings)
    assert findings.evidence[flag] == "Refused: this model knows no such thing"
    assert unable(findings) <= {flag, "tool_choice", "parallel_tools"}


@pytest.mark.parametrize("status", [500, 501])
async def test_a_fault_at_one_feature_is_tried_twice_and_then_a_no(ask: Probe, status: int) -> None:
    model = Model(vision=(status, {"error": {"message": "no mmproj"}}))
    findings = await ask(model)
    assert unable(findings) == {"vision"}
    assert findings.evidence["vision"] == "Failed twice: no mmproj"
    assert [question_of(body) for body in model.bodies].count("vision") == 2


@pytest.mark.parametrize("status", [401, 429, 502, 503, 504, 529])
async def test_trouble_on_the_way_leaves_the_rest_unknown(ask: Probe, status: int) -> None:
    model = Model(tools=(status, {"error": {"message": "busy"}}))
    findings = await ask(model)
    assert set(findings.flags) == {"streaming", "streaming_usage", "system_role"}
    assert findings.stopped is not None
    assert findings.stopped.startswith("At tools: ")
    assert [question_of(body) for body in model.bodies][-1] == "tools"


async def test_a_model_nobody_answers_for_is_unknown(ask: Probe) -> None:
    findings = await ask(Model(plain=(503, {"error": {"message": "down"}})))
    assert (findings.flags, findings.stopped) == ({}, "down")


async def test_a_model_that_does_not_exist_is_unknown(ask: Probe) -> None:
    missing = (404, {"error": {"message": "no such model", "code": "model_not_found"}})
    findings = await ask(Model(plain=missing, embeddings=missing))
    assert (findings.flags, findings.stopped) == ({}, "no such model")


async def test_a_model_that_hangs_costs_one_wait(
    ask: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "ONE_S", 0.2)
    model = Model(vision=None)
    findings = await ask(model)
    assert findings.stopped == "At vision: No answer within 0.2 s."
    assert "vision" not in findings.flags
    assert findings.flags["tools"]


async def test_a_probe_ends_in_time(ask: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "ALL_S", 0.3)
    findings = await ask(Model(tools=None))
    assert findings.stopped == "It took more than 0.3 s."
    assert findings.flags["streaming"]


async def test_an_embedder_is_found_to_do_nothing_else(ask: Probe) -> None:
    refusal = (404, {"error": {"message": "This is not a chat model", "code": None}})
    model = Model(plain=refusal)
    findings = await ask(model)
    assert unable(findings) == MEASURED - {"embeddings"}
    assert findings.evidence["tools"] == "It answers no chat: This is not a chat model"
    assert len(model.bodies) == 2


async def test_words_in_place_of_a_call_are_a_no_for_tools(ask: Probe) -> None:
    findings = await ask(Model(tools=completion("I would call get_weather(Paris).")))
    assert unable(findings) == {"tools", "tool_choice", "parallel_tools"}
    assert "I would call" in findings.evidence["tools"]


async def test_a_call_of_another_tool_or_without_its_argument_does_not_count(ask: Probe) -> None:
    for bad in (call("Paris", name="other"), {**call("x"), "function": {"name": "get_weather"}}):
        findings = await ask(Model(tools=completion(None, tool_calls=[bad])))
        assert "tools" in unable(findings)


async def test_one_call_after_the_other_says_nothing_of_parallel_ones(ask: Probe) -> None:
    findings = await ask(Model(parallel_tools=completion(None, tool_calls=[call("Paris")])))
    assert "parallel_tools" not in findings.flags


async def test_an_answer_that_was_cut_off_says_nothing(ask: Probe) -> None:
    cut = completion('{"colour": "bl')
    cut["choices"][0]["finish_reason"] = "length"
    findings = await ask(Model(json_schema=cut, json_object=cut, vision=cut, tools=cut))
    assert findings.flags.keys().isdisjoint({"structured_output", "json_mode", "vision", "tools"})


@pytest.mark.parametrize(
    "text", ["The sea is blue.", '{"colour": "teal", "count": 7}', '{"colour": "blue"}', "[]"]
)
async def test_a_server_that_ignores_the_schema_is_found_out(ask: Probe, text: str) -> None:
    findings = await ask(Model(json_schema=completion(text)))
    assert unable(findings) == {"structured_output"}


async def test_a_server_that_ignores_json_mode_is_found_out(ask: Probe) -> None:
    findings = await ask(Model(json_object=completion('{"sea": 1}\nIt means a lot.')))
    assert unable(findings) == {"json_mode"}


async def test_a_model_that_guesses_at_the_picture_does_not_see(ask: Probe) -> None:
    findings = await ask(Model(vision=completion("Red and blue")))
    assert unable(findings) == {"vision"}
    assert findings.evidence["vision"].endswith("said: Red and blue")


async def test_a_stream_without_a_count_streams_all_the_same(ask: Probe) -> None:
    model = Model()
    model.usage_in_stream = False
    findings = await ask(model)
    assert (findings.flags["streaming"], findings.flags["streaming_usage"]) == (True, False)


async def test_a_server_that_refuses_stream_options_still_streams(ask: Probe) -> None:
    class Strict(Model):
        async def play(self, asked: Asked, peer: Peer) -> None:
            if "stream_options" in asked.json():
                peer.answer(400, json.dumps({"error": {"message": "unknown field"}}).encode())
            else:
                await super().play(asked, peer)

    findings = await ask(Strict())
    assert (findings.flags["streaming"], findings.flags["streaming_usage"]) == (True, False)


async def test_a_model_that_thinks_gets_the_newer_limit_and_room(ask: Probe) -> None:
    class Thinking(Model):
        async def play(self, asked: Asked, peer: Peer) -> None:
            if "max_tokens" in asked.json():
                told = {"message": "use max_completion_tokens", "param": "max_tokens"}
                peer.answer(400, json.dumps({"error": told}).encode())
            else:
                await super().play(asked, peer)

    model = Thinking()
    findings = await ask(model)
    assert findings.flags == dict.fromkeys(MEASURED, True)
    assert {body.get("max_completion_tokens", 1500) for body in model.bodies} == {1500}


async def test_a_model_that_does_not_come_to_an_end_gets_room_too(ask: Probe) -> None:
    cut = completion("Let me think about how to greet.")
    cut["choices"][0]["finish_reason"] = "length"
    model = Model(plain=cut)
    await ask(model)
    limits = [body["max_tokens"] for body in model.bodies if "messages" in body]
    assert limits == [probing.ANSWER_TOKENS, *[probing.THINKING_TOKENS] * 8]


async def test_an_adapter_without_embeddings_has_none(ask: Probe) -> None:
    class Without(OpenAICompatibleAdapter):
        async def embed(self, request: EmbeddingsRequest) -> Reply:
            return await ChatAdapter.embed(self, request)

    findings = await ask(Model(), Without)
    assert unable(findings) == {"embeddings"}


async def test_what_an_adapter_drops_its_models_lack(ask: Probe) -> None:
    class Dropping(EmbeddingAdapter):
        def payload(self, request: Any) -> dict[str, Any]:
            body = super().payload(request)
            if body.pop("tool_choice", None) is not None:
                request.dropped.add("tool_choice")
            return body

    findings = await ask(Model(), Dropping)
    assert unable(findings) == {"tool_choice"}
    assert findings.evidence["tool_choice"] == "Providers of this kind take no tool_choice."


async def test_evidence_is_short_printable_and_holds_no_secret(ask: Probe) -> None:
    ugly = "bad\x00\r\n\u2028 " + "x" * 999
    findings = await ask(
        Model(vision=completion(ugly), tools=rejected(f"key sk-canary-5f2b8c1d9e7a4036 {ugly}"))
    )
    for text in findings.evidence.values():
        assert len(text) <= probing.MAX_EVIDENCE
        assert text.isprintable()
        assert "canary" not in text


async def test_every_request_is_noted_for_the_ledger(ask: Probe) -> None:
    findings = await ask(Model(vision=(503, {"error": {"message": "busy"}})))
    noted = {each.capability: each for each in findings.asked}
    assert noted["chat"].usage is not None
    assert noted["chat"].usage.prompt_tokens == 9
    assert noted["streaming_usage"].stream
    assert noted["streaming_usage"].usage is not None
    assert noted["vision"].error is not None
    assert all(each.answered == (each.error is None) for each in findings.asked)
    assert all(each.size > 20 for each in findings.asked)


async def test_the_picture_is_a_small_png() -> None:
    from base64 import b64decode
    from zlib import crc32

    from providers.probe_requests import vision_request

    url = vision_request()["messages"][0]["content"][1]["image_url"]["url"]
    png = b64decode(url.removeprefix("data:image/png;base64,"))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) < 300
    assert int.from_bytes(png[29:33]) == crc32(png[12:29])
