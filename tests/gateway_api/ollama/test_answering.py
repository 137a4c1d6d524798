"""`/api/chat` and `/api/generate` over a provider that speaks OpenAI's wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway import KEY, Answered, Gateway, wait_until
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Upstream,
    chunk,
    chunks,
    completion,
    event,
    streaming,
    usage_chunk,
    whole,
)

MODEL = "scripted/gpt-4o-mini"
HELLO = [{"role": "user", "content": "Hello"}]
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture
def ask(mixed_gateway: Gateway) -> Callable[..., Answered]:
    def ask(**fields: Any) -> Answered:
        return mixed_gateway.post("/api/chat", {"model": MODEL, "messages": HELLO, **fields})

    return ask


Ask = Callable[..., Answered]


def lines(answered: Answered) -> list[Any]:
    return [json.loads(line) for line in answered.body.decode().split("\n") if line]


def tool_fragment(index: int, arguments: str, **head: Any) -> bytes:
    function = {"arguments": arguments}
    if head:
        function["name"] = head.pop("name")
    return chunk(tool_calls=[{"index": index, **head, "function": function}])


# --- whole answers ------------------------------------------------------------------------------


def test_a_whole_answer_has_the_text_the_end_and_the_counts(ask: Ask, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Hello there."))
    answered = ask(stream=False)
    assert answered.status == 200
    assert answered.headers["content-type"] == "application/json"
    told = answered.json()
    assert told["model"] == MODEL
    assert told["message"] == {"role": "assistant", "content": "Hello there."}
    assert (told["done"], told["done_reason"]) == (True, "stop")
    assert (told["prompt_eval_count"], told["eval_count"]) == (9, 3)
    assert told["total_duration"] > 0
    assert told["created_at"].endswith("Z")


def test_thinking_and_calls_are_told_in_ollamas_words(ask: Ask, upstream: Upstream) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    upstream.script = whole(
        200, completion(None, reasoning_content="Let me look.", tool_calls=[call])
    )
    message = ask(stream=False, tools=[WEATHER]).json()["message"]
    assert message["thinking"] == "Let me look."
    assert message["tool_calls"] == [
        {
            "id": "call_1",
            "function": {"name": "get_weather", "arguments": {"city": "Paris"}, "index": 0},
        }
    ]


def test_counts_that_nobody_told_are_left_out(ask: Ask, upstream: Upstream) -> None:
    body = completion("Hi")
    del body["usage"]
    upstream.script = whole(200, body)
    told = ask(stream=False).json()
    assert "prompt_eval_count" not in told
    assert "eval_count" not in told


def test_logprobs_are_a_list_of_tokens(ask: Ask, upstream: Upstream) -> None:
    body = completion("Hi")
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    body["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    upstream.script = whole(200, body)
    told = ask(stream=False, logprobs=True, top_logprobs=2).json()
    assert told["logprobs"] == [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}]
    asked = upstream.asked[0].json()
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)


# --- streams ------------------------------------------------------------------------------------


def test_an_answer_streams_as_lines_unless_told_not_to(ask: Ask, upstream: Upstream) -> None:
    upstream.script = streaming(chunks("Hello", " there"))
    answered = ask()
    assert answered.headers["content-type"] == "application/x-ndjson"
    told = lines(answered)
    assert [each["message"]["content"] for each in told] == ["Hello", " there", ""]
    assert [each["done"] for each in told] == [False, False, True]
    assert told[-1]["done_reason"] == "stop"
    assert (told[-1]["prompt_eval_count"], told[-1]["eval_count"]) == (9, 2)


def test_fragments_of_calls_are_gathered_into_objects(ask: Ask, upstream: Upstream) -> None:
    upstream.script = streaming(
        [
            chunk(role="assistant", content=None),
            tool_fragment(0, "", id="a", type="function", name="get_weather"),
            tool_fragment(1, "", id="b", type="function", name="get_weather"),
            tool_fragment(0, '{"ci'),
            tool_fragment(1, '{"city":"Rome"}'),
            tool_fragment(0, 'ty":"Paris"}'),
            chunk("tool_calls"),
            usage_chunk(9, 4),
            DONE,
        ]
    )
    told = lines(ask(tools=[WEATHER]))
    assert [each["done"] for each in told] == [False, True]
    assert [call["function"]["arguments"] for call in told[0]["message"]["tool_calls"]] == [
        {"city": "Paris"},
        {"city": "Rome"},
    ]
    assert told[1]["done_reason"] == "stop"


def test_half_a_call_is_an_error_and_no_end(ask: Ask, upstream: Upstream) -> None:
    upstream.script = streaming(
        [
            chunk(role="assistant", content="Wait."),
            tool_fragment(0, '{"city":"Pa', id="a", type="function", name="get_weather"),
            chunk("length"),
            DONE,
        ]
    )
    told = lines(ask(tools=[WEATHER]))
    assert "arguments" in told[-1]["error"]
    assert not any(each.get("done") for each in told)


def test_a_failure_after_the_first_line_is_an_error_line_and_no_end(
    ask: Ask, upstream: Upstream
) -> None:
    failure = event({"error": {"message": "out of memory", "type": "server_error"}})
    upstream.script = streaming([chunk(content="Hel"), failure], pause_s=0.1)
    told = lines(ask())
    assert told[0]["message"]["content"] == "Hel"
    assert told[1:] == [{"error": "out of memory"}]


def test_a_stream_that_breaks_off_has_no_end(ask: Ask, upstream: Upstream) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin()
        peer.piece(chunk(content="Hel"))
        peer.end()

    upstream.script = script
    told = lines(ask())
    assert set(told[-1]) == {"error"}


def test_a_failure_before_the_first_line_has_its_status(ask: Ask, upstream: Upstream) -> None:
    upstream.script = whole(429, {"error": {"message": "slow down"}}, retry_after="7")
    answered = ask()
    assert (answered.status, answered.json()) == (429, {"error": "slow down"})
    assert answered.headers["retry-after"] == "7"


def test_line_separators_in_the_text_do_not_break_lines(ask: Ask, upstream: Upstream) -> None:
    text = "one\u2028two\u2029three\x85four"
    upstream.script = streaming(chunks(text))
    answered = ask()
    assert len(answered.body.decode().splitlines()) == 2
    assert lines(answered)[0]["message"]["content"] == text


# --- what goes upstream -------------------------------------------------------------------------


def test_options_become_openais_fields_and_the_rest_is_told_of(
    ask: Ask, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion())
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "num_predict": 50,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "num_ctx": 8192,
        "top_k": 40,
    }
    answered = ask(stream=False, options=options, keep_alive="5m", template="{{ .Prompt }}")
    asked = upstream.asked[0].json()
    assert asked == {
        "model": "gpt-4o-mini",
        "messages": HELLO,
        "stream": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "max_tokens": 50,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
    }
    dropped = answered.headers["x-gateway-dropped-params"]
    assert dropped == "keep_alive, options.num_ctx, options.top_k, template"


def test_no_limit_is_no_limit(ask: Ask, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())
    ask(stream=False, options={"num_predict": -1})
    assert "max_tokens" not in upstream.asked[0].json()


@pytest.mark.parametrize(
    ("think", "effort"), [(True, "medium"), (False, "none"), ("low", "low"), ("high", "high")]
)
def test_think_is_a_reasoning_effort(
    ask: Ask, upstream: Upstream, think: bool | str, effort: str
) -> None:
    upstream.script = whole(200, completion())
    ask(stream=False, think=think)
    assert upstream.asked[0].json()["reasoning_effort"] == effort


def test_format_is_a_response_format(ask: Ask, upstream: Upstream) -> None:
    upstream.script = whole(200, completion('{"a": 1}'))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    ask(stream=False, format="json")
    ask(stream=False, format=schema)
    ask(stream=False, format="")
    formats = [asked.json().get("response_format") for asked in upstream.asked]
    assert formats[0] == {"type": "json_object"}
    assert formats[1]["type"] == "json_schema"
    assert formats[1]["json_schema"]["schema"] == schema
    assert formats[2] is None


def test_images_are_data_urls_with_their_media_type(ask: Ask, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())
    ask(stream=False, messages=[{"role": "user", "content": "What is it?", "images": [PIXEL]}])
    assert upstream.asked[0].json()["messages"][0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]


def test_results_are_joined_to_the_calls_of_their_tools(ask: Ask, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())

    def call(name: str, city: str) -> Any:
        return {"function": {"name": name, "arguments": {"city": city}}}

    ask(
        stream=False,
        messages=[
            *HELLO,
            {
                "role": "assistant",
                "thinking": "Hm.",
                "tool_calls": [call("a", "Paris"), call("b", "Rome"), call("a", "Oslo")],
            },
            {"role": "tool", "tool_name": "b", "content": "rain"},
            {"role": "tool", "tool_name": "a", "content": "sun"},
            {"role": "tool", "content": "snow"},
        ],
    )
    sent = upstream.asked[0].json()["messages"]
    ids = [each["id"] for each in sent[1]["tool_calls"]]
    assert len(set(ids)) == 3
    assert sent[1]["reasoning_content"] == "Hm."
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'
    assert [each["tool_call_id"] for each in sent[2:]] == [ids[1], ids[0], ids[2]]


# --- /api/generate ------------------------------------------------------------------------------


def test_a_prompt_is_the_user_message_after_the_system(
    mixed_gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Blue", "."))
    request = {"model": MODEL, "prompt": "Why?", "system": "Be brief.", "context": [1, 2]}
    answered = mixed_gateway.post("/api/generate", request)
    told = lines(answered)
    assert [each["response"] for each in told] == ["Blue", ".", ""]
    assert told[-1]["done"] is True
    assert "message" not in told[0]
    assert upstream.asked[0].json()["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    assert answered.headers["x-gateway-dropped-params"] == "context"


@pytest.mark.parametrize("field", [{"suffix": "end"}, {"raw": True}])
def test_what_only_ollama_can_do_is_refused_elsewhere(
    mixed_gateway: Gateway, upstream: Upstream, field: dict[str, Any]
) -> None:
    answered = mixed_gateway.post("/api/generate", {"model": MODEL, "prompt": "x", **field})
    assert answered.status == 400
    assert next(iter(field)) in answered.json()["error"]
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("path", "request_", "reason"),
    [
        ("/api/generate", {"model": MODEL}, "load"),
        ("/api/generate", {"model": MODEL, "prompt": "", "keep_alive": 0}, "unload"),
        ("/api/chat", {"model": MODEL, "messages": []}, "load"),
        ("/api/chat", {"model": MODEL, "messages": [], "keep_alive": "0s"}, "unload"),
    ],
)
def test_a_request_without_a_prompt_loads_and_asks_nothing(
    mixed_gateway: Gateway, upstream: Upstream, path: str, request_: Any, reason: str
) -> None:
    told = mixed_gateway.post(path, request_).json()
    assert (told["done"], told["done_reason"]) == (True, reason)
    assert upstream.asked == []


def test_loading_a_model_that_is_not_there_is_404(mixed_gateway: Gateway) -> None:
    assert mixed_gateway.post("/api/generate", {"model": "nobody/x"}).status == 404


# --- names, errors, ledger ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "upstreams"),
    [
        ("scripted/gpt-4o-mini:latest", "gpt-4o-mini"),
        ("smart:latest", "gpt-4o-mini"),
        ("gpt-4o:latest", "gpt-4o"),
    ],
)
def test_a_tag_that_a_client_put_to_a_name_is_taken_off(
    ask: Ask, upstream: Upstream, name: str, upstreams: str
) -> None:
    upstream.script = whole(200, completion())
    assert ask(stream=False, model=name).status == 200
    assert upstream.asked[0].json()["model"] == upstreams


def test_a_tag_that_belongs_to_the_name_stays(ask: Ask, upstream: Upstream) -> None:
    upstream.script = whole(200, {"message": {"content": "Hi"}, "done": True})
    ask(stream=False, model="llama/qwen3:latest")
    assert upstream.asked[0].json()["model"] == "qwen3:latest"


BAD = {
    "not json": b"{",
    "nan": b'{"messages": NaN}',
    "an array": b"[]",
    "empty": b"",
    "twice": b'{"model": "a", "model": "b", "messages": []}',
    "lone surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    "deep": b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "no messages": {"model": MODEL},
    "messages as text": {"model": MODEL, "messages": "Hello"},
    "message as text": {"model": MODEL, "messages": ["Hello"]},
    "no role": {"model": MODEL, "messages": [{"content": "x"}]},
    "unknown role": {"model": MODEL, "messages": [{"role": "king", "content": "x"}]},
    "content parts": {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    },
    "model as number": {"model": 5, "messages": HELLO},
    "stream as text": {"model": MODEL, "messages": HELLO, "stream": "yes"},
    "format as word": {"model": MODEL, "messages": HELLO, "format": "xml"},
    "deep format": b'{"model": "%b", "messages": [{"role": "user", "content": "x"}], "format": %b}'
    % (MODEL.encode(), b'{"a":' * 253 + b"1" + b"}" * 253),
    "think as word": {"model": MODEL, "messages": HELLO, "think": "hard"},
    "options as array": {"model": MODEL, "messages": HELLO, "options": [1]},
    "temperature as text": {"model": MODEL, "messages": HELLO, "options": {"temperature": "x"}},
    "no image": {"model": MODEL, "messages": [{"role": "user", "images": ["?"]}]},
    "image of no kind": {
        "model": MODEL,
        "messages": [{"role": "user", "images": ["aGVsbG8gd29y"]}],
    },
    "nameless tool": {"model": MODEL, "messages": HELLO, "tools": [{"function": {}}]},
    "odd tool": {
        "model": MODEL,
        "messages": HELLO,
        "tools": [{"type": "x", "function": {"name": "a"}}],
    },
    "arguments as array": {
        "model": MODEL,
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "a", "arguments": [1]}}],
            }
        ],
    },
    "arguments as bad text": {
        "model": MODEL,
        "messages": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}
        ],
    },
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_400_in_ollamas_envelope_and_asks_nothing(
    mixed_gateway: Gateway, upstream: Upstream, name: str
) -> None:
    answered = mixed_gateway.post("/api/chat", BAD[name])
    assert answered.status == 400, answered.body
    assert list(answered.json()) == ["error"]
    assert isinstance(answered.json()["error"], str)
    assert upstream.asked == []


@pytest.mark.parametrize(
    "body",
    [
        {"model": MODEL, "prompt": 5},
        {"model": MODEL, "prompt": "x", "images": [1]},
        {"model": MODEL, "prompt": "x", "images": ["????"]},
        {"model": MODEL, "prompt": "x", "context": "no"},
        {"model": MODEL, "prompt": "x", "raw": "yes"},
        b"null",
    ],
)
def test_bad_prompts_are_400(mixed_gateway: Gateway, upstream: Upstream, body: Any) -> None:
    answered = mixed_gateway.post("/api/generate", body)
    assert answered.status == 400
    assert list(answered.json()) == ["error"]
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/api/chat", {}, 401),
        ("POST", "/api/chat", {"authorization": "Bearer gw-wrong"}, 401),
        ("GET", "/api/chat", {"authorization": f"Bearer {KEY}"}, 405),
        ("POST", "/api/chat", {"authorization": f"Bearer {KEY}"}, 415),
        ("POST", "/api/nothing", {"authorization": f"Bearer {KEY}"}, 404),
        ("GET", "/api", {}, 404),
        ("GET", "/api/tags", {}, 401),
    ],
)
def test_errors_before_the_view_are_in_ollamas_envelope_too(
    mixed_gateway: Gateway, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answered = mixed_gateway.call(method, path, b"{}" if method == "POST" else None, headers)
    assert answered.status == status
    assert list(answered.json()) == ["error"]
    assert ("allow" in answered.headers) == (status == 405)


def test_a_model_nobody_has_is_404(ask: Ask, upstream: Upstream) -> None:
    answered = ask(model="nobody/x")
    assert answered.status == 404
    assert "nobody/x" in answered.json()["error"]


def test_the_ledger_knows_the_wire_and_the_counts(
    mixed_gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hello", " there"))
    request = {"model": MODEL, "messages": HELLO}
    mixed_gateway.post("/api/chat", request, x_request_id="ollama-ledger")
    rows: list[Any] = []

    def found() -> bool:
        headers = {"authorization": f"Bearer {KEY}"}
        path = "/v1/usage?request_id=ollama-ledger"
        rows[:] = mixed_gateway.call("GET", path, headers=headers).json()["data"]
        return bool(rows)

    wait_until(found, seconds=20)
    (row,) = rows
    assert (row["wire"], row["stream"], row["model"]) == ("ollama", True, MODEL)
    assert (row["tokens_input"], row["tokens_output"], row["estimated"]) == (9, 2, False)
