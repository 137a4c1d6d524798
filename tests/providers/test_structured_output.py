"""An answer in a format, from targets that hold a model to one in their own ways, or in none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest

from chat.errors import InvalidRequest, StructuredOutputInvalid
from chat.folding import CompletionFolder
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from chat.types import Reply, Usage
from providers.adapters.base import ChatAdapter, Endpoint
from providers.capabilities import Capabilities
from providers.emulated import Emulated, Validation
from providers.emulation.plan import plan
from providers.http import HttpClient
from providers.registry import adapter_class
from tests.contract.dialects import Answer, Call
from tests.contract.kinds import SPEAKS
from tests.contract.stage import HELLO, PATIENCE, Played, PlayedHttp, Sent

pytestmark = pytest.mark.once

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"who": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["who", "age"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
JSON: Any = {"type": "json_object"}
ANN = '{"who": "Ann", "age": 30}'
OLD = '{"who": "Ann", "age": "thirty"}'
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
NOTHING = {"tools": False, "tool_choice": False, "structured_output": False, "json_mode": False}
BY_TOOL = {"structured_output": False}
BY_JSON_MODE = {"structured_output": False, "tool_choice": False}
BY_WORDS = {**BY_JSON_MODE, "json_mode": False}


def saying(text: str, **more: Any) -> Answer:
    return Answer(words=(text,), **more)


def calling(name: str, arguments: str) -> Answer:
    return Answer(calls=(Call("call_1", name, (arguments,)),))


@dataclass
class Target:
    """A target of a kind with these flags, whose upstream gives one answer after another."""

    kind: str
    flags: dict[str, bool]
    answers: Sequence[Answer]
    model: str = "a-model"
    attempts: int = 1
    spent: Usage | None = None
    validations: list[Validation] = field(default_factory=list)

    def refuse(self, validation: Validation) -> None:
        self.validations.append(validation)

    def __post_init__(self) -> None:
        self._left = list(self.answers)
        self.http = PlayedHttp(self._play)

    def _play(self, sent: Sent) -> Played:
        dialect, answer = SPEAKS[self.kind], self._left.pop(0)
        if dialect.read(sent.body).streams:
            return Played(dialect.stream(answer), headers={"content-type": dialect.content_type})
        whole = json.dumps(dialect.whole(answer)).encode()
        return Played([whole], headers={"content-type": "application/json"})

    def _asked(self, request: ChatRequest) -> Emulated:
        adapter = self.adapter()
        emulations = plan(request, adapter.capabilities_for(request), model=self.model)
        return Emulated(adapter, emulations, request, self)

    def adapter(self) -> ChatAdapter:
        found = adapter_class(self.kind)
        assert found is not None
        flags = Capabilities().with_overrides(self.flags)
        endpoint = Endpoint("http://10.9.8.7:65000", "sk", self.model, PATIENCE, flags)
        return found(endpoint, cast(HttpClient, self.http))

    async def complete(self, request: ChatRequest) -> Reply:
        return await self._asked(request).complete()

    async def stream(self, request: ChatRequest) -> dict[str, Any]:
        folder = CompletionFolder()
        async with aclosing(self._asked(request).stream()) as batches:
            async for batch in batches:
                for chunk in batch.chunks:
                    folder.add(chunk)
        return folder.completion()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [sent.body for sent in self.http.sent]


def target(flags: dict[str, bool], *answers: Answer, kind: str = "openai-compatible") -> Target:
    return Target(kind, flags, answers)


def asking(response_format: Any = FORMAT, **fields: Any) -> ChatRequest:
    body = {"model": "x", "messages": HELLO, "response_format": response_format, **fields}
    return parse_chat_request(json.dumps(body).encode())


def choice(reply: Reply) -> Any:
    (found,) = orjson.loads(reply.body)["choices"]
    return found


def content(reply: Reply) -> Any:
    return choice(reply)["message"]["content"]


# --- one strategy after another -----------------------------------------------------------------


@pytest.mark.parametrize("kind", SPEAKS)
async def test_a_model_that_can_nothing_is_told_the_schema_in_words(kind: str) -> None:
    asked = target(NOTHING, saying(f"Sure!\n```json\n{ANN}\n```\nAnything else?"), kind=kind)
    request = asking()
    assert content(await asked.complete(request)) == ANN
    (body,) = asked.bodies
    told = json.dumps(body)
    assert "additionalProperties" in told
    assert {"response_format", "format", "output_config", "tools"}.isdisjoint(body)
    assert request.emulated == {"structured_output"}


@pytest.mark.parametrize("kind", ["openai-compatible", "anthropic"])
async def test_a_forced_tools_arguments_are_the_answer(kind: str) -> None:
    asked = target(BY_TOOL, calling("person", ANN), kind=kind)
    reply = await asked.complete(asking())
    assert json.loads(content(reply)) == json.loads(ANN)
    assert (choice(reply)["finish_reason"], reply.finish_reason) == ("stop", "stop")
    assert "tool_calls" not in choice(reply)["message"]
    (body,) = asked.bodies
    assert "response_format" not in body
    assert json.dumps(SCHEMA) in json.dumps(body["tools"])
    assert "person" in json.dumps(body["tool_choice"])


async def test_a_forced_tool_that_is_not_called_may_be_answered_in_words() -> None:
    assert content(await target(BY_TOOL, saying(ANN)).complete(asking())) == ANN


async def test_json_mode_goes_with_the_schema_in_words() -> None:
    asked = target(BY_JSON_MODE, saying(ANN))
    assert content(await asked.complete(asking())) == ANN
    (body,) = asked.bodies
    assert body["response_format"] == {"type": "json_object"}
    assert "additionalProperties" in body["messages"][0]["content"]


async def test_words_join_the_system_message_there_is() -> None:
    asked = target(BY_WORDS, saying(ANN))
    await asked.complete(asking(messages=[{"role": "system", "content": "Be kind."}, *HELLO]))
    system, question = asked.bodies[0]["messages"]
    assert system["content"].startswith("Be kind.\n\n")
    assert question == HELLO[0]


async def test_a_model_that_is_to_think_is_not_forced_to_call() -> None:
    asked = target(BY_TOOL, saying(ANN))
    await asked.complete(asking(reasoning_effort="high"))
    assert "tools" not in asked.bodies[0]


async def test_what_is_no_object_is_asked_for_in_words() -> None:
    listed = {"type": "array", "items": {"type": "integer"}}
    asked = target(BY_TOOL, saying("Here: [1, 2]"))
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": listed}}
    assert content(await asked.complete(asking(wanted))) == "[1, 2]"
    assert "tools" not in asked.bodies[0]


@pytest.mark.parametrize("kind", ["openai-compatible", "anthropic"])
async def test_a_json_object_is_asked_for_in_words_where_there_is_no_json_mode(kind: str) -> None:
    asked = target({"json_mode": False}, saying('["no"]'), saying('So: {"sea": 1.50}'), kind=kind)
    request = asking(JSON)
    assert content(await asked.complete(request)) == '{"sea": 1.50}'
    assert request.emulated == {"json_mode"}


@pytest.mark.parametrize(
    "schema",
    [
        {**SCHEMA, "additionalProperties": True},
        {**SCHEMA, "properties": {"who": {"minLength": 1}, "age": {"type": "integer"}}},
        {**SCHEMA, "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}},
    ],
)
async def test_a_schema_that_anthropic_refuses_goes_through_a_tool(schema: Any) -> None:
    asked = target({}, calling("x", ANN), kind="anthropic")
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(content(await asked.complete(asking(wanted)))) == json.loads(ANN)
    assert "output_config" not in asked.bodies[0]


async def test_a_claude_that_cannot_be_forced_is_told_in_words() -> None:
    schema = {**SCHEMA, "additionalProperties": True}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = Target("anthropic", {}, [saying(ANN)], model="claude-opus-5-5")
    assert content(await asked.complete(asking(wanted))) == ANN
    assert {"tools", "output_config"}.isdisjoint(asked.bodies[0])


async def test_an_older_claude_is_held_to_a_schema_by_a_tool() -> None:
    asked = Target("anthropic", {}, [calling("person", ANN)], model="claude-3-haiku")
    await asked.complete(asking())
    assert asked.bodies[0]["tool_choice"] == {"type": "tool", "name": "person"}


# --- together with tools (M46) ------------------------------------------------------------------

WITH_TOOLS: dict[str, dict[str, bool]] = {
    "native": {},
    "forced tool": BY_TOOL,
    "JSON mode": BY_JSON_MODE,
    "words": BY_WORDS,
}


@pytest.mark.parametrize("flags", WITH_TOOLS.values(), ids=WITH_TOOLS.keys())
@pytest.mark.parametrize("streams", [False, True])
async def test_a_call_of_the_callers_tool_passes(flags: dict[str, bool], streams: bool) -> None:
    asked = target(flags, calling("get_weather", '{"city": "Paris"}'))
    request = asking(tools=[WEATHER], stream=streams)
    if streams:
        (found,) = (await asked.stream(request))["choices"]
    else:
        found = choice(await asked.complete(request))
    (call,) = found["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert found["finish_reason"] == "tool_calls"
    assert "get_weather" in json.dumps(asked.bodies[0]["tools"])


@pytest.mark.parametrize("flags", WITH_TOOLS.values(), ids=WITH_TOOLS.keys())
async def test_an_answer_beside_tools_is_validated(flags: dict[str, bool]) -> None:
    asked = target(flags, saying(OLD), saying(ANN))
    assert content(await asked.complete(asking(tools=[WEATHER]))) == ANN
    assert len(asked.bodies) == 2


async def test_tools_and_format_may_both_be_told_in_words() -> None:
    call = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
    asked = target({**NOTHING, "json_mode": True}, saying(call), saying(OLD), saying(ANN))
    request = asking(tools=[WEATHER])
    (called,) = choice(await asked.complete(request))["message"]["tool_calls"]
    assert called["function"]["name"] == "get_weather"
    assert content(await asked.complete(request)) == ANN
    assert {"tools", "response_format"}.isdisjoint(asked.bodies[0])
    assert request.emulated == {"structured_output", "tools"}


async def test_the_answer_is_one_of_the_tools_that_must_be_called() -> None:
    asked = target(BY_TOOL, calling("person", ANN))
    await asked.complete(asking(tools=[WEATHER]))
    (body,) = asked.bodies
    assert [each["function"]["name"] for each in body["tools"]] == ["get_weather", "person"]
    assert body["tool_choice"] == "required"


async def test_the_answers_tool_takes_no_name_that_is_taken() -> None:
    mine = {"type": "function", "function": {"name": "person", "parameters": {}}}
    asked = target(BY_TOOL, calling("person", '{"mine": 1}'))
    (call,) = choice(await asked.complete(asking(tools=[mine])))["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"mine": 1}'
    assert [each["function"]["name"] for each in asked.bodies[0]["tools"]] == ["person", "answer_1"]


async def test_a_call_beside_the_answer_is_the_turn() -> None:
    both = Answer(
        calls=(Call("1", "get_weather", ('{"city": "Rome"}',)), Call("2", "person", (ANN,)))
    )
    found = choice(await target(BY_TOOL, both).complete(asking(tools=[WEATHER])))
    assert [each["id"] for each in found["message"]["tool_calls"]] == ["1"]
    assert found["finish_reason"] == "tool_calls"


async def test_where_no_tool_may_be_called_only_the_answers_is() -> None:
    asked = target(BY_TOOL, calling("person", ANN))
    await asked.complete(asking(tools=[WEATHER], tool_choice="none"))
    assert asked.bodies[0]["tool_choice"] == {"type": "function", "function": {"name": "person"}}


async def test_where_a_call_is_due_no_format_is_asked_for() -> None:
    asked = target(BY_TOOL, calling("get_weather", "{}"))
    request = asking(tools=[WEATHER], tool_choice="required")
    assert choice(await asked.complete(request))["finish_reason"] == "tool_calls"
    (body,) = asked.bodies
    assert (len(body["tools"]), body["tool_choice"]) == (1, "required")
    assert "response_format" not in body
    assert request.emulated == set()


async def test_ollama_is_told_a_format_beside_tools_in_words() -> None:
    """ollama #8095"""
    asked = target({"tool_choice": False}, saying(ANN), kind="ollama")
    request = asking(tools=[WEATHER])
    assert content(await asked.complete(request)) == ANN
    (body,) = asked.bodies
    assert "format" not in body
    assert "additionalProperties" in body["messages"][0]["content"]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get_weather"]
    assert request.emulated == {"structured_output"}


async def test_ollamas_own_clients_are_not_corrected() -> None:
    native = {**SPEAKS["ollama"].native(stream=False), "format": SCHEMA, "tools": [WEATHER]}
    request = asking(tools=[WEATHER])
    request.wire, request.native = "ollama", native
    asked = target({}, saying("as it is"), kind="ollama")
    assert (await asked.complete(request)).wire == "ollama"
    assert asked.bodies[0]["format"] == SCHEMA


# --- what is not valid --------------------------------------------------------------------------


async def test_an_invalid_answer_is_asked_for_again_with_what_is_wrong() -> None:
    asked = target(BY_WORDS, saying(OLD), saying(ANN))
    reply = await asked.complete(asking())
    assert content(reply) == ANN
    said, told = asked.bodies[1]["messages"][-2:]
    assert (said["role"], said["content"]) == ("assistant", OLD)
    assert "$.age: 'thirty' is not of type 'integer'" in told["content"]
    assert asked.attempts == 2
    (validation,) = asked.validations
    assert validation.error == "The answer is not in its format: properties.age.type."
    prompt, output = SPEAKS[asked.kind].counts
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2 * prompt, 2 * output)


async def test_an_answer_that_stays_invalid_is_422_with_its_errors_and_text() -> None:
    asked = target(BY_WORDS, saying("No."), saying(OLD))
    with pytest.raises(StructuredOutputInvalid) as caught:
        await asked.complete(asking())
    error = caught.value
    assert (error.http_status, error.code) == (422, "structured_output_invalid")
    assert error.details == {
        "validation_errors": [
            {"path": "$.age", "message": "'thirty' is not of type 'integer'"},
        ],
        "last_text": OLD,
    }
    assert "thirty" not in error.message  # which is logged


@pytest.mark.parametrize("retries", [0, 3])
async def test_a_request_says_how_often_it_is_asked_again(retries: int) -> None:
    asked = target(BY_WORDS, *[saying(OLD)] * 5)
    request = asking()
    request.answer_retries = retries
    with pytest.raises(StructuredOutputInvalid):
        await asked.complete(request)
    assert len(asked.bodies) == retries + 1


async def test_an_answer_that_was_cut_off_is_not_asked_for_again() -> None:
    asked = target(BY_WORDS, saying('{"who": "An', cut=True))
    with pytest.raises(StructuredOutputInvalid, match="cut off at its limit"):
        await asked.complete(asking())


async def test_of_several_objects_none_is_guessed() -> None:
    asked = target(BY_WORDS, saying(f"Either {OLD} or {ANN}"), saying(ANN))
    await asked.complete(asking())
    assert "several JSON values" in asked.bodies[1]["messages"][-1]["content"]


async def test_no_value_is_changed() -> None:
    exact = '{"who":"\\u00e9 \\/","age":100000000000000000000000}'
    assert content(await target(BY_WORDS, saying(exact)).complete(asking())) == exact


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "objekt"}, ".type"),
        ({"properties": {"a": {"minimum": "1"}}}, ".properties.a.minimum"),
        ({"$ref": "https://example.com/a.json"}, ".$ref"),
    ],
)
async def test_a_schema_that_is_none_costs_no_upstream_call(schema: Any, place: str) -> None:
    asked = target(BY_WORDS)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(InvalidRequest) as caught:
        await asked.complete(asking(wanted))
    assert caught.value.param == f"response_format.json_schema.schema{place}"
    assert asked.bodies == []


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (BY_TOOL, calling("person", ANN)),
        (BY_JSON_MODE, saying(ANN)),
        (BY_WORDS, saying(f"```\n{ANN}\n```")),
    ],
)
async def test_a_stream_comes_when_it_is_valid(flags: dict[str, bool], answer: Answer) -> None:
    asked = target(flags, saying(OLD), answer)
    request = asking(stream=True)
    completion = await asked.stream(request)
    (found,) = completion["choices"]
    assert (found["message"]["content"], found["finish_reason"]) == (ANN, "stop")
    assert completion["usage"]["prompt_tokens"] == 2 * SPEAKS[asked.kind].counts[0]
    assert request.emulated == {"structured_output; buffered"}


async def test_a_stream_that_never_is_valid_fails_before_its_first_chunk() -> None:
    asked = target(BY_WORDS, saying(OLD), saying(OLD))
    with pytest.raises(StructuredOutputInvalid):
        await anext(asked._asked(asking(stream=True)).stream())


async def test_a_stream_that_is_held_to_its_format_passes_as_it_comes() -> None:
    asked = target({}, saying(ANN))
    request = asking(stream=True)
    assert (await asked.stream(request))["choices"][0]["message"]["content"] == ANN
    assert request.emulated == set()
    again = target({}, saying(ANN))
    batches = [batch async for batch in again._asked(asking(stream=True)).stream()]
    assert b"".join(batch.wire or b"" for batch in batches).count(b"data: {") > 2


@pytest.mark.parametrize("kind", ["openai-compatible", "ollama", "anthropic"])
@pytest.mark.parametrize("told", [OLD, "Sorry.", "", f"Here: {ANN}", ANN + ANN])
async def test_a_stream_whose_upstream_did_not_keep_its_word_fails_at_its_end(
    kind: str, told: str
) -> None:
    """As the whole answer does (M46): the caller hears no `stop`, and pays what was counted."""
    asked = target({}, saying(told), kind=kind)
    said, ends, counted = "", set(), None
    with pytest.raises(StructuredOutputInvalid) as failure:
        async for batch in asked._asked(asking(stream=True)).stream():
            for chunk in batch.chunks:
                said += "".join(choice.delta.content or "" for choice in chunk.choices)
                ends |= {choice.finish_reason for choice in chunk.choices}
                counted = chunk.usage or counted
    assert (said, ends - {None}) == (told, set())
    assert (failure.value.details or {})["last_text"] == told
    assert counted is not None and counted.estimated is not True
    assert len(asked.validations) == 1


@pytest.mark.parametrize(
    "answer", [saying('{"who": "An', cut=True), calling("get_weather", "{}")], ids=["cut", "call"]
)
async def test_a_stream_without_a_final_answer_passes(answer: Answer) -> None:
    asked = target({}, answer)
    (found,) = (await asked.stream(asking(tools=[WEATHER], stream=True)))["choices"]
    assert found["finish_reason"] == answer.finish


# --- upstreams that do it themselves ------------------------------------------------------------


async def test_a_native_answer_that_is_valid_is_not_touched() -> None:
    asked = target({}, saying(f" {ANN}\n"))
    reply = await asked.complete(asking())
    assert json.loads(reply.body) == SPEAKS[asked.kind].whole(saying(f" {ANN}\n"))
    assert asked.bodies[0]["response_format"] == FORMAT
    assert len(asked.bodies) == 1


async def test_an_upstream_that_does_not_keep_its_word_is_asked_again() -> None:
    asked = target({}, saying(f"Here you are: {OLD}"), saying(ANN))
    assert content(await asked.complete(asking())) == ANN
    assert asked.bodies[1]["response_format"] == FORMAT


async def test_what_an_upstream_cut_off_is_told_as_it_came() -> None:
    asked = target({}, saying('{"who": "An', cut=True))
    assert choice(await asked.complete(asking()))["finish_reason"] == "length"


async def test_an_upstreams_word_will_do_where_it_takes_too_long_to_tell() -> None:
    choices = {"items": {"anyOf": [{"const": number} for number in range(1000)]}}
    schema = {"type": "object", "properties": {"a": choices}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    told = json.dumps({"a": [999] * 1000})
    assert content(await target({}, saying(told)).complete(asking(wanted))) == told
    with pytest.raises(InvalidRequest, match="too many steps"):
        await target(BY_WORDS, saying(told)).complete(asking(wanted))


async def test_a_native_schema_that_only_the_upstream_can_read_is_its_own_business() -> None:
    schema = {"type": "object", "properties": {"a": {"pattern": "(?<!a)b"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert content(await target({}, saying('{"a": "x"}')).complete(asking(wanted))) == '{"a": "x"}'


async def test_an_answer_on_the_callers_own_wire_is_not_looked_into() -> None:
    request = asking()
    request.wire, request.native = "anthropic", SPEAKS["anthropic"].native(stream=False)
    reply = await target({}, saying("anything"), kind="anthropic").complete(request)
    assert reply.wire == "anthropic"
