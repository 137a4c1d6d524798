"""A caller's JSON: what is taken, and how a refusal names the place."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from chat.errors import InvalidRequest
from chat.parsing import parse_chat_request, parse_object

pytestmark = pytest.mark.once
HI = {"role": "user", "content": "hi"}


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as problem:
        parse_chat_request(json.dumps({"model": "m", "messages": [HI]} | fields).encode())
    return problem.value


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"nope", b'{"a":1,}', b'{"a":NaN}', b'{"a":Infinity}', b"{'a':1}"),
        *(b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'\xef\xbb\xbf{"a":1}', b'{"a":1}{"b":2}'),
    ],
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as problem:
        parse_object(raw)
    assert problem.value.code == "invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"text"', b"1", b"true"])
def test_json_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_object(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","model":"b"}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[{"b":1,"b":1}]}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":"\\u0022\\u0022","b":1,"b":2}',
    ],
)
def test_a_name_that_stands_twice_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as problem:
        parse_object(raw)
    assert "stands twice" in problem.value.message


def test_a_double_among_many_names_is_found_in_time() -> None:
    """Counting each name among all held a worker for 16 s with 355 kB."""
    names = [f"{number:x}" for number in range(100_000)]
    raw = "{" + ",".join(f'"{name}":0' for name in [*names, names[-1]]) + "}"
    started = time.monotonic()
    with pytest.raises(InvalidRequest):
        parse_object(raw.encode())
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "raw", [b'{"a":"\\"quoted\\""}', b'{"a":"\\u0022"}', b'{"a":{"a":1},"b":{"a":1}}']
)
def test_quotes_and_equal_names_in_different_objects_are_no_doubles(raw: bytes) -> None:
    assert parse_object(raw) == json.loads(raw)


@pytest.mark.parametrize("opening", [b'{"a":', b'{"a":[' + b"["])
def test_endless_nesting_is_refused(opening: bytes) -> None:
    depth = 200_000
    for raw in (opening * depth, b'{"a":' + b"[" * depth + b"]" * depth + b"}"):
        with pytest.raises(InvalidRequest):
            parse_object(raw)


def test_every_field_is_kept_as_it_came() -> None:
    fields = {"model": "m", "messages": [{**HI, "odd": 1}], "vendor": {"x": [None, 1.5]}}
    request = parse_chat_request(json.dumps(fields).encode())
    assert request.body == fields
    assert request.size == len(json.dumps(fields))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidRequest) as problem:
        parse_chat_request(b'{"model":"m"}')
    assert (problem.value.param, problem.value.code) == ("messages", "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"n": 0}, "n"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [HI, {"role": "robot", "content": "x"}]}, "messages[...].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[...].content"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
    ],
)
def test_a_refusal_names_the_place(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.http_status == 400
    assert error.param is not None
    assert error.param.split("[")[0] == param.split("[")[0]
    assert error.param.split(".")[-1].split("[")[0] == param.split(".")[-1].split("[")[0]


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant"])
def test_every_role_that_speaks_is_taken(role: str) -> None:
    body = {"messages": [{"role": role, "content": "x"}]}
    assert parse_chat_request(json.dumps(body).encode()).params.messages[0].role == role


def test_an_assistant_that_only_calls_needs_no_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "tool", "tool_call_id": "1", "content": "x"}
    messages = [HI, {"role": "assistant", "content": None, "tool_calls": [call]}, answer]
    taken = parse_chat_request(json.dumps({"messages": messages}).encode()).params.messages
    assert [message.role for message in taken] == ["user", "assistant", "tool"]


def test_a_tool_message_without_its_call_is_refused() -> None:
    assert "tool_call_id" in refused(messages=[HI, {"role": "tool", "content": "x"}]).message
