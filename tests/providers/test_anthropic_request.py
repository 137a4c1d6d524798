"""An OpenAI request as Anthropic is sent it: every field mapped, dropped by name, or refused."""

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from anthropic.types import MessageCreateParams
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from chat.errors import GatewayError, InvalidRequest
from chat.parsing import parse_chat_request
from providers.adapters.anthropic_models import ModelFacts, facts_of
from providers.adapters.anthropic_request import build_payload
from providers.capabilities import Capabilities

pytestmark = pytest.mark.once
SONNET = "claude-sonnet-4-5"
OPUS_5 = "claude-opus-5"
OLD = "claude-3-5-haiku-latest"
HELLO = {"role": "user", "content": "Hello"}
EPHEMERAL = {"type": "ephemeral"}
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln+/==", "new_field": 1}
PDF = "data:application/pdf;base64,JVBERi0="
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
UNTYPED = {"function": {"name": "now"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


def sent(*messages: Any, model: str = SONNET, **fields: Any) -> tuple[dict[str, Any], set[str]]:
    """The body that goes upstream, and the names the caller is told were dropped."""
    body = {"model": "claude/x", "messages": list(messages) or [HELLO], **fields}
    request = parse_chat_request(json.dumps(body).encode())
    payload = build_payload(request, model=model, facts=facts_of(model, {}))
    return payload.body, request.dropped


def refused(*messages: Any, **fields: Any) -> str | None:
    """The `param` of the refusal."""
    with pytest.raises(InvalidRequest) as caught:
        sent(*messages, **fields)
    assert caught.value.http_status == 400
    return caught.value.param


def call(called: str, name: str = "now", arguments: str = "{}", **more: Any) -> Any:
    function = {"name": name, "arguments": arguments}
    return {"id": called, "type": "function", "function": function, **more}


def calling(*calls: Any, **more: Any) -> Any:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def result(called: str, content: Any = "42", **more: Any) -> Any:
    return {"role": "tool", "tool_call_id": called, "content": content, **more}


def words(text: str, **more: Any) -> Any:
    return {"type": "text", "text": text, **more}


# --- the whole ----------------------------------------------------------------------------------


def test_a_plain_request_holds_what_anthropic_needs_and_no_nulls() -> None:
    body, dropped = sent(HELLO, temperature=None, tools=None, stop=None, user=None)
    assert body == {
        "model": SONNET,
        "max_tokens": 64_000,
        "messages": [{"role": "user", "content": [words("Hello")]}],
    }
    assert dropped == set()


def test_a_rich_request_is_valid_for_anthropics_own_types() -> None:
    body, _ = sent(
        {"role": "system", "content": [words("Be brief.", cache_control=EPHEMERAL)]},
        {
            "role": "user",
            "content": [words("See"), {"type": "image_url", "image_url": {"url": PDF}}],
        },
        calling(call("toolu_1"), thinking_blocks=[SIGNED]),
        result("toolu_1"),
        tools=[WEATHER, NOW],
        tool_choice="auto",
        parallel_tool_calls=False,
        max_completion_tokens=5000,
        reasoning_effort="high",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        service_tier="auto",
        stop=["END"],
        user="me",
    )
    TypeAdapter(MessageCreateParams).validate_python(body)


def test_stream_goes_up_only_when_the_caller_streams() -> None:
    assert "stream" not in sent(stream=False)[0]
    assert sent(stream=True, stream_options={"include_usage": True})[0]["stream"] is True


# --- system prompts -----------------------------------------------------------------------------


def test_system_and_developer_prompts_are_hoisted_in_order_with_their_marks() -> None:
    body, _ = sent(
        {"role": "system", "content": "One."},
        HELLO,
        {"role": "developer", "content": [words("Two."), words("Three.", cache_control=EPHEMERAL)]},
        {"role": "system", "content": "Four.", "cache_control": EPHEMERAL},
    )
    assert body["system"] == [
        words("One."),
        words("Two."),
        words("Three.", cache_control=EPHEMERAL),
        words("Four.", cache_control=EPHEMERAL),
    ]
    assert [each["role"] for each in body["messages"]] == ["user"]


def test_system_prompts_alone_are_sent_as_the_users_turn() -> None:
    body, _ = sent({"role": "system", "content": "Tell a joke."})
    assert "system" not in body
    assert body["messages"] == [{"role": "user", "content": [words("Tell a joke.")]}]


# --- turns --------------------------------------------------------------------------------------


def test_messages_of_one_role_that_follow_each_other_are_one_turn() -> None:
    body, _ = sent(
        HELLO,
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": "Hi"},
        {"role": "assistant", "content": "you"},
        HELLO,
    )
    assert [(each["role"], len(each["content"])) for each in body["messages"]] == [
        ("user", 2),
        ("assistant", 2),
        ("user", 1),
    ]


def test_blank_text_is_left_out() -> None:
    body, _ = sent(
        HELLO,
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [words(" \n"), words("more")]},
    )
    assert body["messages"] == [{"role": "user", "content": [words("Hello"), words("more")]}]


def test_a_history_without_any_content_is_refused() -> None:
    assert refused({"role": "user", "content": ""}, {"role": "user", "content": " "}) == "messages"


def test_a_prefill_does_not_end_in_white_space() -> None:
    body, _ = sent(HELLO, {"role": "assistant", "content": "The answer is \n"})
    assert body["messages"][-1]["content"] == [words("The answer is")]


def test_a_refusal_in_the_history_is_text() -> None:
    body, _ = sent(
        HELLO,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "refusal": "Never."},
        HELLO,
    )
    assert body["messages"][1]["content"] == [words("No."), words("Never.")]


def test_a_name_is_dropped_and_told() -> None:
    assert sent({**HELLO, "name": "ann"})[1] == {"messages.name"}


def test_messages_of_the_function_role_are_refused() -> None:
    old = {"role": "function", "name": "f", "content": "1"}
    assert refused(HELLO, old) == "messages[1].role"


# --- content ------------------------------------------------------------------------------------


def image(url: str, **more: Any) -> Any:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def block_of(part: Any) -> Any:
    return sent({"role": "user", "content": [part]})[0]["messages"][0]["content"][0]


def test_a_data_url_is_a_base64_source() -> None:
    assert block_of(image("data:image/png;base64,aGk=")) == {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
    }


def test_an_https_url_is_a_url_source_and_is_not_fetched() -> None:
    assert block_of(image("https://example.com/cat.png")) == {
        "type": "image",
        "source": {"type": "url", "url": "https://example.com/cat.png"},
    }


def test_detail_is_dropped_and_told() -> None:
    part = image("https://example.com/cat.png", detail="high")
    assert sent({"role": "user", "content": [part]})[1] == {"image_url.detail"}


@pytest.mark.parametrize(
    "url", ["data:image/png,abc", "data:image/png;base64,", "file:///etc/passwd", "cat.png"]
)
def test_an_image_that_is_none_is_refused_by_its_place(url: str) -> None:
    place = "messages[0].content[1].image_url"
    assert refused({"role": "user", "content": [words("See"), image(url)]}) == place


def test_a_pdf_is_a_document() -> None:
    assert block_of({"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}}) == {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        "title": "a.pdf",
    }


def test_a_text_file_is_a_text_document() -> None:
    data = "data:text/csv;base64," + base64.b64encode("ä,b".encode()).decode()
    assert block_of({"type": "file", "file": {"file_data": data}})["source"] == {
        "type": "text",
        "media_type": "text/plain",
        "data": "ä,b",
    }


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ({"file_id": "file-1"}, "file_id"),
        ({}, "file_data"),
        ({"file_data": "data:application/zip;base64,AA=="}, "file_data"),
        ({"file_data": "data:text/plain;base64,/w=="}, "file_data"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused(file: Any, field: str) -> None:
    part = {"type": "file", "file": file}
    assert refused({"role": "user", "content": [part]}) == f"messages[0].content[0].file.{field}"


def test_audio_is_refused() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    assert refused({"role": "user", "content": [part]}) == "messages[0].content[0].type"
    assert refused(modalities=["text", "audio"], audio={"voice": "a"}) == "modalities"


# --- cache marks --------------------------------------------------------------------------------


def test_cache_marks_are_kept_everywhere() -> None:
    hour = {"type": "ephemeral", "ttl": "1h"}
    body, dropped = sent(
        {"role": "user", "content": [words("a", cache_control=hour), words("b")]},
        calling(call("toolu_1", cache_control=hour)),
        result("toolu_1", [words("42", cache_control=hour)]),
        {"role": "user", "content": "c", "cache_control": hour},
        tools=[{**WEATHER, "cache_control": hour}, NOW],
    )
    assert [each.get("cache_control") for each in body["tools"]] == [hour, None]
    first, second, third = (each["content"] for each in body["messages"])
    assert [each.get("cache_control") for each in first] == [hour, None]
    assert [each.get("cache_control") for each in second] == [hour]
    assert [each.get("cache_control") for each in third] == [hour, hour]
    assert third[0]["content"] == [words("42")]
    assert dropped == set()


def test_openais_breakpoints_become_marks_and_another_life_is_told() -> None:
    marked = words("a", prompt_cache_breakpoint={"mode": "explicit", "ttl": "30m"})
    body, dropped = sent({"role": "user", "content": [marked]})
    mark = body["messages"][0]["content"][0]["cache_control"]
    assert mark == {"type": "ephemeral", "ttl": "5m"}
    assert dropped == {"prompt_cache_breakpoint.ttl"}


def test_implicit_caching_is_anthropics_automatic_one() -> None:
    assert sent(prompt_cache_options={"mode": "implicit"})[0]["cache_control"] == EPHEMERAL
    assert "cache_control" not in sent(prompt_cache_options={"mode": "explicit"})[0]


# --- tools --------------------------------------------------------------------------------------


def test_tools_keep_name_description_and_schema() -> None:
    body, _ = sent(tools=[WEATHER, NOW])
    assert body["tools"] == [
        {
            "name": "get_weather",
            "description": "Says the weather.",
            "input_schema": WEATHER["function"]["parameters"],  # type: ignore[index]
        },
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "now"}}, {"type": "tool", "name": "now"}),
    ],
)
def test_tool_choice_is_mapped(choice: Any, told: Any) -> None:
    assert sent(tools=[WEATHER, NOW], tool_choice=choice)[0]["tool_choice"] == told
    parallel = sent(tools=[WEATHER, NOW], tool_choice=choice, parallel_tool_calls=False)[0]
    only_one = {} if choice == "none" else {"disable_parallel_tool_use": True}
    assert parallel["tool_choice"] == {**told, **only_one}


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ("required", ["get_weather", "now"]),
        ({"type": "function", "function": {"name": "now"}}, ["now"]),
    ],
)
def test_a_model_that_cannot_be_forced_is_told_to_call(choice: Any, offered: list[str]) -> None:
    body, _ = sent(model="claude-opus-5-5", tools=[WEATHER, NOW], tool_choice=choice)
    assert [each["name"] for each in body["tools"]] == offered
    assert body["tool_choice"] == {"type": "auto"}
    assert "must answer by calling" in body["system"][-1]["text"]


@pytest.mark.parametrize(("mode", "told"), [("auto", "auto"), ("required", "any")])
def test_allowed_tools_are_the_only_ones_offered(mode: str, told: str) -> None:
    named = [{"type": "function", "function": {"name": "now"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    body, _ = sent(tools=[WEATHER, NOW], tool_choice=choice)
    assert [each["name"] for each in body["tools"]] == ["now"]
    assert body["tool_choice"] == {"type": told}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": "any"}, "tool_choice"),
        (
            {
                "tools": [NOW],
                "tool_choice": {"type": "function", "function": {"name": "gone"}},
            },
            "tool_choice.function.name",
        ),
        (
            {"tools": [NOW], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice.allowed_tools",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"functions": [{"name": "x"}]}, "functions"),
    ],
)
def test_tools_and_choices_that_cannot_be_sent_are_refused(fields: Any, param: str) -> None:
    assert refused(**fields) == param


def test_anthropics_own_tools_go_as_they_are() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    assert sent(tools=[search])[0]["tools"] == [search]


def test_strict_goes_where_it_is_known_and_is_told_where_not() -> None:
    strict = {"type": "function", "function": {**NOW["function"], "strict": True}}  # type: ignore[dict-item]
    assert sent(tools=[strict])[0]["tools"][0]["strict"] is True
    body, dropped = sent(tools=[strict], model=OLD)
    assert "strict" not in body["tools"][0]
    assert dropped == {"tools.function.strict"}


def test_a_history_with_calls_and_no_tools_names_them_and_lets_none_be_called() -> None:
    body, _ = sent(HELLO, calling(call("toolu_1")), result("toolu_1"), HELLO)
    assert [each["name"] for each in body["tools"]] == ["now"]
    assert body["tool_choice"] == {"type": "none"}


def test_results_of_a_turn_stand_first_in_one_user_turn() -> None:
    body, _ = sent(
        HELLO,
        {**calling(call("toolu_1"), call("toolu_2", arguments='{"a": [1]}')), "content": "I ask."},
        result("toolu_2", "two"),
        {"role": "user", "content": "and hurry"},
        result("toolu_1", [words("one"), image("data:image/png;base64,aGk=")]),
        tools=[NOW],
    )
    assistant, user = body["messages"][1:]
    assert [each["type"] for each in assistant["content"]] == ["text", "tool_use", "tool_use"]
    assert assistant["content"][2] == {
        "type": "tool_use",
        "id": "toolu_2",
        "name": "now",
        "input": {"a": [1]},
    }
    assert [each["type"] for each in user["content"]] == ["tool_result", "tool_result", "text"]
    assert user["content"][0] == {
        "type": "tool_result",
        "tool_use_id": "toolu_2",
        "content": [words("two")],
    }
    assert [each["type"] for each in user["content"][1]["content"]] == ["text", "image"]


def test_an_empty_result_is_a_result() -> None:
    body, _ = sent(HELLO, calling(call("toolu_1")), result("toolu_1", ""), tools=[NOW])
    assert body["messages"][-1]["content"] == [{"type": "tool_result", "tool_use_id": "toolu_1"}]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([HELLO, result("toolu_1")], "messages[1].tool_call_id"),
        ([HELLO, calling(call("a")), result("b")], "messages[2].tool_call_id"),
        ([HELLO, calling(call("a")), result("a"), result("a")], "messages[3].tool_call_id"),
        ([HELLO, calling(call("a"))], "messages[1].tool_calls[0]"),
        ([HELLO, calling(call("a"), call("b")), result("a")], "messages[1].tool_calls[1]"),
        (
            [HELLO, calling(call("a")), HELLO, {"role": "assistant", "content": "x"}, result("a")],
            "messages[1].tool_calls[0]",
        ),
        ([HELLO, calling(call("a"), call("a")), result("a")], "messages[1].tool_calls[1].id"),
    ],
)
def test_orphans_are_refused_by_their_place(messages: Any, param: str) -> None:
    assert refused(*messages, tools=[NOW]) == param


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', "nonsense", '{"a": NaN}'])
def test_malformed_arguments_in_the_history_are_refused(arguments: str) -> None:
    place = "messages[1].tool_calls[0].function.arguments"
    assert refused(HELLO, calling(call("a", arguments=arguments)), result("a")) == place


def test_no_arguments_at_all_are_an_empty_object() -> None:
    body, _ = sent(HELLO, calling(call("a", arguments="")), result("a"), tools=[NOW])
    assert body["messages"][1]["content"][0]["input"] == {}


def test_ids_of_other_providers_are_respelled_on_both_sides() -> None:
    body, _ = sent(HELLO, calling(call("functions.now:0")), result("functions.now:0"), tools=[NOW])
    assert body["messages"][1]["content"][0]["id"] == "functions_now_0"
    assert body["messages"][2]["content"][0]["tool_use_id"] == "functions_now_0"


def test_a_tool_without_a_type_is_a_function() -> None:
    """Mistral's clients leave it out; it was a 500."""
    assert sent(tools=[UNTYPED])[0]["tools"] == sent(tools=[NOW])[0]["tools"]


def test_custom_tool_calls_are_refused() -> None:
    custom = {"id": "a", "type": "custom", "custom": {"name": "x", "input": "y"}}
    assert refused(HELLO, calling(custom), result("a")) == "messages[1].tool_calls[0].type"


# --- thinking -----------------------------------------------------------------------------------


def test_thinking_blocks_go_back_first_and_to_the_letter() -> None:
    hidden = {"type": "redacted_thinking", "data": "opaque=="}
    body, dropped = sent(
        HELLO,
        {
            **calling(call("toolu_1"), thinking_blocks=[SIGNED, hidden], reasoning_content="Hm."),
            "content": "I ask.",
        },
        result("toolu_1"),
        tools=[NOW],
    )
    content = body["messages"][1]["content"]
    assert content[:2] == [SIGNED, hidden]
    assert [each["type"] for each in content[2:]] == ["text", "tool_use"]
    assert dropped == set()


def test_reasoning_without_a_signature_cannot_go_back_and_is_told() -> None:
    unsigned = {"type": "thinking", "thinking": "Hm."}
    spoken = {"role": "assistant", "content": "Hi"}
    _, dropped = sent(HELLO, {**spoken, "thinking_blocks": [unsigned]}, HELLO)
    assert dropped == {"messages.thinking_blocks"}
    _, dropped = sent(HELLO, {**spoken, "reasoning_content": "Hm."}, HELLO)
    assert dropped == {"messages.reasoning_content"}


def test_a_block_that_is_no_thinking_is_refused() -> None:
    spoken = {"role": "assistant", "content": "Hi", "thinking_blocks": [{"type": "text"}]}
    assert refused(HELLO, spoken) == "messages[1].thinking_blocks[0].type"


@pytest.mark.parametrize(
    ("model", "asked", "effort", "told"),
    [
        (OPUS_5, "minimal", "low", False),
        (OPUS_5, "high", "high", False),
        (OPUS_5, "xhigh", "xhigh", False),
        ("claude-opus-4-6", "xhigh", "high", True),
        ("claude-opus-4-6", "max", "max", False),
    ],
)
def test_newer_models_get_an_effort(model: str, asked: str, effort: str, told: bool) -> None:
    body, dropped = sent(model=model, reasoning_effort=asked)
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"effort": effort}
    assert dropped == ({"reasoning_effort"} if told else set())


@pytest.mark.parametrize(
    ("limit", "budget"), [(None, 16_384), (8000, 4000), (1500, 1024), (1024, None)]
)
def test_older_models_get_a_budget_below_the_limit(limit: int | None, budget: int | None) -> None:
    body, dropped = sent(reasoning_effort="high", max_completion_tokens=limit)
    if budget is None:
        assert "thinking" not in body
        assert dropped == {"reasoning_effort"}
    else:
        assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}
        assert 1024 <= budget < body["max_tokens"]


@pytest.mark.parametrize(
    ("model", "thinking", "effort"),
    [
        (SONNET, {"type": "disabled"}, None),
        (OPUS_5, {"type": "disabled"}, None),
        ("claude-sonnet-5-5", {"type": "between_tools"}, None),
        ("claude-fable-5", None, "low"),
        (OLD, None, None),
    ],
)
def test_no_effort_turns_thinking_off(model: str, thinking: Any, effort: Any) -> None:
    body, _ = sent(model=model, reasoning_effort="none")
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


def test_an_effort_a_model_does_not_know_is_dropped_and_told() -> None:
    body, dropped = sent(model=OLD, reasoning_effort="high")
    assert "thinking" not in body
    assert dropped == {"reasoning_effort"}
    assert refused(reasoning_effort="enormous") == "reasoning_effort"


def test_a_budget_is_not_asked_for_where_upstream_would_refuse_it() -> None:
    """In a tool turn that began without thinking, and beside a forced call."""
    body, dropped = sent(
        HELLO, calling(call("a")), result("a"), tools=[NOW], reasoning_effort="high"
    )
    assert "thinking" not in body
    assert dropped == {"reasoning_effort"}
    body, _ = sent(tools=[NOW], tool_choice="required", reasoning_effort="high")
    assert "thinking" not in body


def test_a_callers_own_thinking_goes_as_it_is_with_room_for_the_answer() -> None:
    thinking = {"type": "enabled", "budget_tokens": 70_000}
    body, dropped = sent(thinking=thinking)
    assert body["thinking"] == thinking
    assert body["max_tokens"] > 70_000
    assert dropped == set()


# --- sampling and limits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("claude-2.1", 4096),
        ("claude-3-opus-20240229", 4096),
        ("claude-3-5-sonnet-20240620", 8192),
        ("claude-sonnet-4-20250514", 16_384),
        ("claude-opus-4-1-20250805", 16_384),
        ("claude-haiku-4-5-20251001", 64_000),
        ("claude-opus-4-7", 128_000),
        ("claude-fable-5-2", 128_000),
        ("claude-mythos-preview", 128_000),
        ("glm-4.6", 8192),
    ],
)
def test_the_limit_upstream_requires_has_a_default_per_model(model: str, most: int) -> None:
    assert sent(model=model)[0]["max_tokens"] == most


def test_the_newer_name_of_the_limit_wins() -> None:
    assert sent(max_tokens=5, max_completion_tokens=7)[0]["max_tokens"] == 7
    assert sent(max_tokens=5)[0]["max_tokens"] == 5


def test_temperature_is_clamped_and_that_is_told() -> None:
    assert sent(temperature=0.3) == ({**sent()[0], "temperature": 0.3}, set())
    body, dropped = sent(temperature=1.7)
    assert (body["temperature"], dropped) == (1.0, {"temperature"})


def test_models_without_sampling_get_none_and_that_is_told() -> None:
    body, dropped = sent(model=OPUS_5, temperature=0.3, top_p=0.9)
    assert not body.keys() & {"temperature", "top_p"}
    assert dropped == {"temperature", "top_p"}


def test_thinking_leaves_only_the_sampling_anthropic_allows_beside_it() -> None:
    body, dropped = sent(reasoning_effort="low", temperature=0.2, top_p=0.5)
    assert not body.keys() & {"temperature", "top_p"}
    assert dropped == {"temperature", "top_p"}


def test_temperature_and_top_p_go_together_only_where_they_may() -> None:
    body, dropped = sent(temperature=0.2, top_p=0.5)
    assert ("top_p" in body, dropped) == (False, {"top_p"})
    body, dropped = sent(temperature=0.2, top_p=0.5, model=OLD)
    assert (body["top_p"], dropped) == (0.5, set())


def test_stop_strings_are_sequences_without_blank_ones() -> None:
    assert sent(stop="END")[0]["stop_sequences"] == ["END"]
    body, dropped = sent(stop=["END", "\n\n"])
    assert (body["stop_sequences"], dropped) == (["END"], {"stop"})
    assert "stop_sequences" not in sent(stop=[" "])[0]


def test_one_answer_is_all_there_is() -> None:
    assert "n" not in sent(n=1)[0]
    assert refused(n=2) == "n"


# --- output format ------------------------------------------------------------------------------

FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}


def test_a_json_schema_is_an_output_format() -> None:
    body, _ = sent(response_format=FORMAT, model=OPUS_5, reasoning_effort="low")
    wanted = {"type": "json_schema", "schema": SCHEMA}
    assert body["output_config"] == {"effort": "low", "format": wanted}


def test_a_json_object_is_nothing_it_can_be_held_to() -> None:
    assert refused(response_format={"type": "json_object"}) == "response_format.type"


def test_a_schema_that_is_none_is_refused() -> None:
    broken = {"type": "json_schema", "json_schema": {"name": "x"}}
    assert refused(response_format=broken) == "response_format.json_schema.schema"


# --- the rest -----------------------------------------------------------------------------------


def test_a_user_is_sent_as_a_hash() -> None:
    hashed = hashlib.sha256(b"ann@example.com").hexdigest()
    assert sent(user="ann@example.com")[0]["metadata"] == {"user_id": hashed}
    body, _ = sent(user="other", safety_identifier="ann@example.com")
    assert body["metadata"] == {"user_id": hashed}


@pytest.mark.parametrize(
    ("tier", "told"), [("auto", "auto"), ("default", "standard_only"), ("flex", None)]
)
def test_service_tiers_are_mapped_or_told(tier: str, told: str | None) -> None:
    body, dropped = sent(service_tier=tier)
    assert body.get("service_tier") == told
    assert dropped == (set() if told else {"service_tier"})


DROPPED: dict[str, Any] = {
    "seed": 0,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"1": 5},
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "prompt_cache_key": "k",
    "verbosity": "low",
    "store": True,
    "prediction": {"type": "content", "content": "x"},
    "a_field_of_next_year": False,
    "api_base": "http://evil.example",
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_anthropic_does_not_know_is_dropped_and_told(name: str) -> None:
    body, dropped = sent(**{name: DROPPED[name]})
    assert body == sent()[0]
    assert dropped == {name}


def test_what_asks_for_nothing_is_not_told() -> None:
    nothing: Any = {
        "logprobs": False,
        "frequency_penalty": 0,
        "store": False,
        "metadata": {"a": "b"},
    }
    assert sent(**nothing, modalities=["text"])[1] == set()


def test_web_search_of_openais_kind_is_refused() -> None:
    assert refused(web_search_options={}) == "web_search_options"


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from(["", "x", "auto", "none", "5m"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "name", "ttl", "mode", "function"]), inner)
    ),
    max_leaves=6,
)
PARTS = st.sampled_from([words(" "), words("a"), image("data:,"), image("https://x/y"), "odd"])
CONTENT = st.none() | st.sampled_from(["", "a"]) | st.lists(PARTS, max_size=2)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "function"]),
        "content": CONTENT,
    },
    optional={
        "tool_call_id": st.sampled_from(["a", "b"]),
        "tool_calls": st.lists(st.sampled_from([call("a"), call("b"), call("a", arguments="[")])),
        "cache_control": ODD,
        "prompt_cache_breakpoint": ODD,
        "thinking_blocks": ODD,
        "refusal": ODD,
        "name": ODD,
    },
)
FIELDS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, min_size=1, max_size=5)},
    optional={
        "tools": st.lists(st.sampled_from([NOW, WEATHER, UNTYPED, {"type": "custom"}]), max_size=2)
        | ODD,
        **dict.fromkeys(
            ["tool_choice", "thinking", "reasoning_effort", "response_format", "stop", "n"], ODD
        ),
        **dict.fromkeys(["top_p", "top_k", "temperature", "prompt_cache_options", "user"], ODD),
    },
)


@given(body=FIELDS, model=st.sampled_from([SONNET, OPUS_5, OLD, "claude-opus-5-5"]))
def test_whatever_a_caller_sends_is_sent_on_or_refused(body: Any, model: str) -> None:
    try:
        request = parse_chat_request(json.dumps(body).encode())
        payload = build_payload(request, model=model, facts=facts_of(model, {}))
    except InvalidRequest as refusal:
        assert refusal.http_status == 400
        return
    roles = [each["role"] for each in payload.body["messages"]]
    assert all(one != other for one, other in pairwise(roles))
    assert all(each["content"] for each in payload.body["messages"])


# --- facts --------------------------------------------------------------------------------------


def test_a_provider_row_overrides_the_facts_of_its_models() -> None:
    own = {"models": {"m": {"sampling": False, "max_tokens": 5, "efforts": ["low"]}}}
    assert facts_of("m", own) == ModelFacts(sampling=False, max_tokens=5, efforts=("low",))


def test_a_deployments_flags_take_away_what_a_model_could_do() -> None:
    flags = Capabilities(reasoning=False, structured_output=False, tool_choice=False)
    facts = facts_of(OPUS_5, {}).limited_by(flags)
    assert (facts.thinking, facts.efforts) == ("none", ())
    assert not facts.structured_output
    assert not facts.forced_tools


@pytest.mark.parametrize("facts", [{"odd": 1}, {"max_tokens": "x"}, "text"])
def test_facts_that_are_none_are_the_operators_error(facts: Any) -> None:
    with pytest.raises(GatewayError, match="options"):
        facts_of("m", {"models": {"m": facts}})
