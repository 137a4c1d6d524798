"""OpenAI's own Python client, served by an Anthropic upstream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.anthropic_upstream import (
    SIGNED,
    error,
    event,
    message,
    stream,
    text,
    text_block,
    thinking_block,
    tool_block,
    tool_use,
)
from tests.conftest import spare_database
from tests.gateway import KEY, Gateway, running_gateway
from tests.upstream import (
    Asked,
    Peer,
    Script,
    Upstream,
    scripted_upstream,
    silence,
    streaming,
    whole,
)

pytestmark = pytest.mark.once
MODEL = "scripted/claude-sonnet-4-5"
HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]


class City(BaseModel):
    name: str
    population: int


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def claude(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose provider `scripted` is of the kind `anthropic`."""
    folder = tmp_path_factory.mktemp("claude")
    with (
        spare_database(folder) as url,
        running_gateway(folder, url, provider.base_url, kind="anthropic") as gateway,
    ):
        yield gateway


@pytest.fixture
def upstream(provider: Upstream) -> Upstream:
    provider.script, provider.asked = silence, []
    return provider


@pytest.fixture
def client(claude: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{claude.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def in_turn(*scripts: Script) -> Script:
    """Plays one script per request."""
    left = list(scripts)

    async def script(asked: Asked, peer: Peer) -> None:
        await left.pop(0)(asked, peer)

    return script


def test_create_returns_the_message_and_the_usage(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, message(text("Hello there.")))
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello there."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (60, 7)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 30


def test_what_was_not_passed_on_is_told_in_a_header(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, message(text("Hi")))
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, seed=1, temperature=1.5
    )
    assert raw.headers["x-gateway-dropped-params"] == "seed, temperature"


def test_a_stream_is_text_with_usage_only_where_asked_for(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming(stream(text_block(0, "Hello", " there")))
    got = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in got) == "Hello there"
    assert all(each.usage is None for each in got)
    options: Any = {"include_usage": True}
    got = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options=options
        )
    )
    assert got[-1].usage is not None
    assert got[-1].usage.prompt_tokens == 60


def test_the_stream_helper_adds_parallel_calls_up(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming(
        stream(
            text_block(0, "I look."),
            tool_block(1, "toolu_1", "get_weather", '{"ci', 'ty": "Par', 'is"}'),
            tool_block(2, "toolu_2", "now"),
            stop="tool_use",
        )
    )
    with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=TOOLS) as helper:
        final = helper.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [(each.id, each.function.name, each.function.arguments) for each in calls] == [
        ("toolu_1", "get_weather", '{"city": "Paris"}'),
        ("toolu_2", "now", "{}"),
    ]


def test_parse_returns_an_object(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, message(text('{"name": "Paris", "population": 2100000}')))
    answer = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Paris", population=2_100_000)
    schema = upstream.asked[0].json()["output_config"]["format"]["schema"]
    assert schema["required"] == ["name", "population"]


# --- a tool loop of three turns -----------------------------------------------------------------

THOUGHTS = [{**SIGNED, "signature": f"c2ln{turn}+/=="} for turn in range(2)]


def whole_turns() -> Script:
    return in_turn(
        whole(200, message(THOUGHTS[0], tool_use("toolu_1", "now"), stop="tool_use")),
        whole(
            200,
            message(
                THOUGHTS[1],
                text("Now the weather."),
                tool_use("toolu_2", "get_weather", city="Paris"),
                stop="tool_use",
            ),
        ),
        whole(200, message(text("Sunny."))),
    )


def streamed_turns() -> Script:
    def thinking(turn: int) -> list[bytes]:
        return thinking_block(0, "Let me", " see.", signature=THOUGHTS[turn]["signature"])

    weather = tool_block(2, "toolu_2", "get_weather", '{"city":', ' "Paris"}')
    return in_turn(
        streaming(stream(thinking(0), tool_block(1, "toolu_1", "now"), stop="tool_use")),
        streaming(
            stream(thinking(1), text_block(1, "Now the", " weather."), weather, stop="tool_use")
        ),
        streaming(stream(text_block(0, "Sun", "ny."))),
    )


def assistant_turn(client: openai.OpenAI, history: Any, *, streams: bool) -> dict[str, Any]:
    """The assistant's message, as a client of chat completions sends it back."""
    asked: dict[str, Any] = {"model": MODEL, "messages": history, "tools": TOOLS}
    if not streams:
        answer = client.chat.completions.create(**asked, reasoning_effort="low")
        told: dict[str, Any] = answer.choices[0].message.model_dump(exclude_none=True)
        return told
    thoughts: list[Any] = []
    with client.chat.completions.stream(**asked, reasoning_effort="low") as helper:
        for part in helper:
            if part.type == "chunk":
                delta: Any = part.chunk.choices[0].delta
                thoughts += getattr(delta, "thinking_blocks", None) or []
        spoken = helper.get_final_completion().choices[0].message
    kept = {"role", "content", "tool_calls"}
    told = spoken.model_dump(include=kept, exclude_none=True)
    for call in told.get("tool_calls", ()):
        call["function"].pop("parsed_arguments", None)
        call.pop("index", None)
    return {**told, "thinking_blocks": thoughts}


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_tool_loop_of_three_turns_keeps_calls_results_and_signatures(
    client: openai.OpenAI, upstream: Upstream, *, streams: bool
) -> None:
    upstream.script = streamed_turns() if streams else whole_turns()
    history: list[Any] = [{"role": "system", "content": "Be brief."}, *HELLO]
    for answer in ("12:00", "25 C"):
        turn = assistant_turn(client, history, streams=streams)
        (call,) = turn["tool_calls"]
        history += [turn, {"role": "tool", "tool_call_id": call["id"], "content": answer}]
    assert assistant_turn(client, history, streams=streams)["content"] == "Sunny."

    first, second, third = (each.json() for each in upstream.asked)
    assert first["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert third["system"] == [text("Be brief.")]
    assert third["messages"][: len(second["messages"])] == second["messages"]
    assert third["messages"] == [
        {"role": "user", "content": [text("Hello")]},
        {"role": "assistant", "content": [THOUGHTS[0], tool_use("toolu_1", "now")]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("12:00")]}
            ],
        },
        {
            "role": "assistant",
            "content": [
                THOUGHTS[1],
                text("Now the weather."),
                tool_use("toolu_2", "get_weather", city="Paris"),
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text("25 C")]}
            ],
        },
    ]


# --- failures -----------------------------------------------------------------------------------


def test_bad_history_is_refused_before_anyone_is_asked(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{"}}
    history: Any = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"
    assert upstream.asked == []


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("status", "told", "shown", "kind"),
    [
        (401, "authentication_error", 502, openai.InternalServerError),
        (404, "not_found_error", 404, openai.NotFoundError),
        (429, "rate_limit_error", 429, openai.RateLimitError),
        (529, "overloaded_error", 503, openai.InternalServerError),
    ],
)
def test_a_failing_upstream_is_an_error_of_the_right_class(
    client: openai.OpenAI,
    upstream: Upstream,
    status: int,
    told: str,
    shown: int,
    kind: type[openai.APIStatusError],
    *,
    streams: bool,
) -> None:
    upstream.script = whole(status, error(told), retry_after="7")
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=streams)
    assert caught.value.status_code == shown
    if status in (429, 529):
        assert caught.value.response.headers["retry-after"] == "7"


def test_an_error_before_the_first_word_has_a_status(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    told = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    upstream.script = streaming([*stream()[:2], told])
    with pytest.raises(openai.InternalServerError, match="Overloaded") as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    assert caught.value.status_code == 503


@pytest.mark.parametrize("told", [True, False], ids=["error", "cut"])
def test_a_stream_that_fails_after_words_ends_in_an_error_and_no_finish(
    client: openai.OpenAI, upstream: Upstream, *, told: bool
) -> None:
    packets = stream(text_block(0, "Hello"))[:4]
    if told:
        packets.append(event("error", error={"type": "api_error", "message": "Oh."}))
    upstream.script = streaming(packets)
    got = []
    with pytest.raises(openai.APIError):
        for each in client.chat.completions.create(model=MODEL, messages=HELLO, stream=True):
            got.append(each)
    assert "".join(each.choices[0].delta.content or "" for each in got) == "Hello"
    assert {each.choices[0].finish_reason for each in got} == {None}
