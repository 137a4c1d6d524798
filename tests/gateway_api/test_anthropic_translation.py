"""Messages requests in the OpenAI shape, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.errors import InvalidRequest
from chat.requests import ChatRequest
from gateway_api.anthropic.translation import Translated, is_strict, parse_messages

pytestmark = pytest.mark.once

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "now", "input_schema": {"type": "object"}}
EPHEMERAL = {"type": "ephemeral"}


def translated(**fields: Any) -> Translated:
    body = {"model": "m", "max_tokens": 50, "messages": HELLO, **fields}
    return parse_messages(json.dumps(body).encode(), {"anthropic-beta": "b"})


def body(**fields: Any) -> dict[str, Any]:
    return translated(**fields).request.body


def messages(*turns: tuple[str, Any], **fields: Any) -> list[dict[str, Any]]:
    sent = [{"role": role, "content": content} for role, content in turns]
    found: list[dict[str, Any]] = body(messages=sent, **fields)["messages"]
    return found


def result(id_: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": content, **fields}


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def image(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


# --- what travels along -------------------------------------------------------------------------


def test_the_body_travels_along_as_it_came() -> None:
    request: ChatRequest = translated(top_k=5, future={"x": 1}).request
    assert request.wire == "anthropic"
    assert request.native == {
        "model": "m",
        "max_tokens": 50,
        "messages": HELLO,
        "top_k": 5,
        "future": {"x": 1},
    }
    assert request.native_headers == {"anthropic-beta": "b"}
    assert request.native_only is None


def test_thoughts_that_anthropic_did_not_sign_stay_away_from_it() -> None:
    """It refuses them: another upstream's thoughts, from before the caller changed the model."""
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    turns = [
        *HELLO,
        {"role": "assistant", "content": [unsigned, signed, text("4"), {"type": "new", "x": 1}]},
        *HELLO,
        {"role": "assistant", "content": [unsigned]},
        *HELLO,
    ]
    native = translated(messages=turns).request.native
    assert native is not None
    assert native["messages"] == [
        *HELLO,
        {"role": "assistant", "content": [signed, text("4"), {"type": "new", "x": 1}]},
        *HELLO,
        *HELLO,
    ]


def test_fields_that_are_not_expressed_are_named() -> None:
    tools = [{**TOOL, "defer_loading": True, "cache_control": EPHEMERAL}]
    told = translated(
        top_k=5,
        cache_control=EPHEMERAL,
        future=1,
        absent=None,
        tools=tools,
        output_config={"effort": "low", "task_budget": {}},
    )
    assert told.dropped == {
        "top_k",
        "cache_control",
        "future",
        "tools.defer_loading",
        "output_config.task_budget",
    }


def test_the_names_of_what_is_dropped_stay_few_and_short() -> None:
    told = translated(**{f"{at:04}{'x' * 1000}": 1 for at in range(1000)})
    assert sum(map(len, told.dropped)) < 4096


@pytest.mark.parametrize("name", ["api_key", "base_url", "api_base"])
def test_where_to_ask_is_never_the_callers_business(name: str) -> None:
    told = translated(**{name: "x"})
    assert name in told.dropped
    assert name not in told.request.body


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}, TOOL]},
        {"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "x"}]},
        {"container": "c"},
        {"inference_geo": "eu"},
        {"messages": [{"role": "user", "content": [{"type": "something_new", "x": 1}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "a"}]}]},
        {"output_config": {"format": {"type": "grammar"}}},
    ],
)
def test_what_only_anthropic_understands_is_for_such_upstreams_only(fields: Any) -> None:
    told = translated(**fields).request.native_only
    assert isinstance(told, InvalidRequest)
    assert told.param


def test_a_named_tool_may_be_one_that_anthropic_brings() -> None:
    told = translated(
        tools=[{"type": "bash_20250124", "name": "bash"}],
        tool_choice={"type": "tool", "name": "bash"},
    )
    assert told.request.native_only is not None


# --- the conversation ---------------------------------------------------------------------------


def test_a_system_prompt_comes_first() -> None:
    assert messages(("user", "hi"), system="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_system_blocks_keep_their_marks() -> None:
    system = [text("Be brief."), text("Be kind.", cache_control=EPHEMERAL)]
    assert messages(("user", "hi"), system=system)[0] == {"role": "system", "content": system}


@pytest.mark.parametrize("system", [None, "", [], [text("")]])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert messages(("user", "hi"), system=system) == [{"role": "user", "content": "hi"}]


def test_a_system_message_in_the_middle_stays_there() -> None:
    roles = [each["role"] for each in messages(("user", "hi"), ("system", "now"), ("user", "x"))]
    assert roles == ["user", "system", "user"]


def test_a_lone_text_is_a_string_and_several_stay_parts() -> None:
    assert messages(("user", [text("a")]))[0]["content"] == "a"
    assert messages(("user", [text("a"), text(""), text("b")]))[0]["content"] == [
        text("a"),
        text("b"),
    ]


def test_images_and_documents_are_parts() -> None:
    blocks = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        image("https://x.example/a.png"),
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
            "cache_control": EPHEMERAL,
        },
        {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}},
    ]
    assert messages(("user", blocks))[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="},
            "cache_control": EPHEMERAL,
        },
        {
            "type": "file",
            "file": {"filename": "document.pdf", "file_data": "https://x.example/a.pdf"},
        },
    ]


def test_documents_of_text_are_text_under_their_title() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "The text."}
    found = {"type": "search_result", "source": "https://x.example", "title": "Found"}
    blocks = [
        {"type": "document", "title": "T", "context": "C", "source": plain},
        {"type": "document", "source": {"type": "content", "content": [text("Inner.")]}},
        {**found, "content": [text("A hit.")]},
    ]
    assert [part["text"] for part in messages(("user", blocks))[0]["content"]] == [
        "T\nC",
        "The text.",
        "Inner.",
        "Found\nhttps://x.example",
        "A hit.",
    ]


def test_an_assistants_turn_has_its_text_thoughts_and_calls() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eHl6"},
        text("Let me look."),
        {"type": "tool_use", "id": "a", "name": "now", "input": {"zone": "CET"}},
        {"type": "tool_use", "id": "b", "name": "now", "input": {}},
    ]
    assert messages(("user", "hi"), ("assistant", blocks))[1] == {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_content": "Hm.",
        "thinking_blocks": blocks[:2],
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "now", "arguments": '{"zone":"CET"}'},
            },
            {"id": "b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }


def test_thoughts_that_nobody_signed_are_text_alone() -> None:
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": ""}, text("4")]
    assert messages(("user", "hi"), ("assistant", blocks))[1] == {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "Hm.",
    }


def test_an_assistant_that_only_calls_has_no_content() -> None:
    call = {"type": "tool_use", "id": "a", "name": "now", "input": {}}
    assert messages(("user", "hi"), ("assistant", [call]))[1]["content"] is None


@pytest.mark.parametrize("content", [[], "", [text("")]])
def test_an_assistant_that_said_nothing_is_kept(content: Any) -> None:
    assert messages(("user", "hi"), ("assistant", content))[1] == {
        "role": "assistant",
        "content": "",
    }


def test_results_come_before_what_else_the_user_says() -> None:
    """In whatever order the caller wrote them (M33)."""
    blocks = [text("And now?"), result("a", "1"), result("b", [text("2"), text("3")])]
    assert messages(("user", blocks)) == [
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": [text("2"), text("3")]},
        {"role": "user", "content": "And now?"},
    ]


def test_a_results_mark_stands_on_its_last_part() -> None:
    blocks = [result("a", "1", cache_control=EPHEMERAL)]
    assert messages(("user", blocks))[0]["content"] == [text("1", cache_control=EPHEMERAL)]


@pytest.mark.parametrize("content", [None, "", []])
def test_an_empty_result_is_a_result(content: Any) -> None:
    assert messages(("user", [result("a", content)])) == [
        {"role": "tool", "tool_call_id": "a", "content": ""}
    ]


@pytest.mark.parametrize(
    ("content", "told"), [("no such city", "Error: no such city"), ("", "Error: "), ([], "Error")]
)
def test_a_result_that_is_an_error_says_so(content: Any, told: str) -> None:
    blocks = [result("a", content, is_error=True)]
    assert messages(("user", blocks))[0]["content"] == told


def test_an_image_in_a_result_follows_in_the_users_message() -> None:
    """A tool's message holds text only on OpenAI's wire."""
    blocks = [
        result("a", [text("A map."), image("https://x.example/a.png")]),
        result("b", "2"),
        text("And now?"),
    ]
    tool_a, tool_b, user = messages(("user", blocks))
    assert [tool_a["tool_call_id"], tool_b["tool_call_id"]] == ["a", "b"]
    assert tool_a["content"][0] == text("A map.")
    assert "next user message" in tool_a["content"][1]["text"]
    line, picture, words = user["content"]
    assert "tool call a" in line["text"]
    assert picture == {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    assert words == text("And now?")


# --- tools and knobs ----------------------------------------------------------------------------


def test_tools_keep_schema_strictness_and_marks() -> None:
    tool = {**TOOL, "description": "The time.", "strict": True, "cache_control": EPHEMERAL}
    assert body(tools=[tool])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "now",
                "description": "The time.",
                "parameters": {"type": "object"},
                "strict": True,
            },
            "cache_control": EPHEMERAL,
        }
    ]


@pytest.mark.parametrize(
    ("choice", "fields"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "now"},
            {"tool_choice": {"type": "function", "function": {"name": "now"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_tool_choices_are_openais(choice: Any, fields: Any) -> None:
    sent = body(tools=[TOOL], tool_choice=choice)
    names = ("tool_choice", "parallel_tool_calls")
    assert {name: sent[name] for name in names if name in sent} == fields


def test_a_choice_among_no_tools_is_not_sent() -> None:
    assert "tool_choice" not in body(tool_choice={"type": "auto"})


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 31_999}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "xhigh"),
        ({"output_config": {"effort": "max"}}, "max"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({}, None),
    ],
)
def test_thinking_is_an_effort(fields: Any, effort: str | None) -> None:
    assert body(**fields).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
    ],
)
def test_an_output_schema_is_a_response_format(fields: Any) -> None:
    assert body(**fields)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": False},
    }


CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({**CLOSED, "required": []}, False),
        ({**CLOSED, "additionalProperties": True}, False),
        ({"type": "object"}, False),
        ({"type": "array", "items": CLOSED}, True),
        ({"anyOf": [CLOSED, {"type": "object"}]}, False),
        ({**CLOSED, "properties": {"a": {"type": "object"}}}, False),
        ({**CLOSED, "$defs": {"properties": CLOSED}}, True),
        ({**CLOSED, "properties": {"type": {"enum": ["object"]}}, "required": ["type"]}, True),
        ({"enum": [{"type": "object"}]}, True),
    ],
)
def test_a_schema_is_strict_where_openai_takes_it_so(schema: Any, strict: bool) -> None:
    assert is_strict(schema) is strict


def test_knobs_have_openais_names() -> None:
    sent = body(
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["END"],
        stream=True,
        metadata={"user_id": "u1"},
        service_tier="standard_only",
    )
    del sent["messages"]
    assert sent == {
        "model": "m",
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "stream": True,
        "user": "u1",
        "service_tier": "default",
    }


def test_what_is_null_is_not_sent() -> None:
    fields = dict.fromkeys(
        ("temperature", "top_p", "stop_sequences", "stream", "metadata", "tools")
    )
    assert body(**fields).keys() == {"model", "max_tokens", "messages"}


# --- anything at all ----------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
TYPES = ("text", "image", "document", "tool_use", "tool_result", "thinking", "search_result", "new")
SOURCES = ("base64", "url", "text", "content", "file", "new")
NAMES = ("text", "id", "name", "input", "tool_use_id", "content", "thinking", "title", "is_error")


def any_block(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    content = st.text(max_size=3) | st.lists(inner, max_size=3)
    fields = {name: st.text(max_size=3) for name in NAMES}
    source = st.fixed_dictionaries(
        {"type": st.sampled_from(SOURCES), "media_type": st.just("a/b"), "data": st.just("aGk=")},
        optional={"url": st.just("https://x.example"), "file_id": st.just("f"), "content": content},
    )
    return st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES)},
        optional={
            **fields,
            "input": st.just({"a": 1}) | JSON,
            "content": content | JSON,
            "source": source | JSON,
            "is_error": st.booleans(),
            "cache_control": st.just(EPHEMERAL),
        },
    )


TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.text(max_size=3)
            | st.lists(
                st.recursive(
                    any_block(st.just({"type": "text", "text": "x"})), any_block, max_leaves=4
                ),
                max_size=4,
            ),
        }
    ),
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(TURNS, st.dictionaries(st.sampled_from(["system", "tools", "thinking", "stream"]), JSON))
def test_any_request_is_translated_or_refused(turns: Any, fields: Any) -> None:
    try:
        told = translated(messages=turns, **fields)
    except InvalidRequest as error:
        assert error.message
        return
    assert all(each["content"] != [] for each in told.request.body["messages"])
