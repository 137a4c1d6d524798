"""OpenAI's own Python client, as it is installed by everyone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.gateway import KEY, Gateway, wait_until
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Script,
    Upstream,
    chunk,
    chunks,
    completion,
    silence,
    streaming,
    usage_chunk,
    whole,
)

pytestmark = pytest.mark.once

MODEL = "scripted/gpt-4o-mini"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}


class City(BaseModel):
    name: str
    population: int


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def error_body(message: str, *, param: str | None = None, code: str | None = None) -> Any:
    return {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": param,
            "code": code,
        }
    }


# --- whole answers ------------------------------------------------------------------------------


def test_create_returns_the_message_the_usage_and_a_request_id(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Hello there."))
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello there."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 12
    assert answer._request_id
    assert answer._request_id.startswith("req_")


def test_a_route_is_a_model(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Hello there."))
    client.chat.completions.create(model="smart", messages=HELLO)
    assert upstream.asked[0].json()["model"] == "gpt-4o-mini"


async def test_the_async_client_gets_the_same_answer(
    async_client: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Hello there."))
    answer = await async_client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello there."


def test_a_callers_request_id_comes_back(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, extra_headers={"x-request-id": "mine-1"}
    )
    assert answer._request_id == "mine-1"


def test_tool_calls_come_through(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion(None, tool_calls=[CALL]))
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert [call.model_dump() for call in calls] == [CALL]


def test_parse_returns_an_object(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion('{"name": "Paris", "population": 2100000}'))
    answer = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Paris", population=2_100_000)
    asked = upstream.asked[0].json()
    assert asked["response_format"]["json_schema"]["name"] == "City"


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_brings_every_chunk_and_no_usage_unasked(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hello", " there", "."))
    got = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in got) == "Hello there."
    assert got[-1].choices[0].finish_reason == "stop"
    assert len({(each.id, each.model, each.created) for each in got}) == 1


def test_a_stream_ends_with_its_usage_when_that_is_asked_for(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hello", " there"))
    got = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert got[-1].choices == []
    assert got[-1].usage is not None
    assert got[-1].usage.completion_tokens == 2


async def test_the_async_client_streams(
    async_client: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hello", " there"), pause_s=0.01)
    stream = await async_client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    texts = [each.choices[0].delta.content or "" async for each in stream]
    assert "".join(texts) == "Hello there"


def test_the_raw_stream_is_the_upstreams_own_bytes(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    sent = [*(chunk(content=word) for word in ("a", "b", "é")), chunk("stop")]
    upstream.script = streaming([*sent, usage_chunk(9, 3), DONE])
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, stream=True
    ) as response:
        assert response.headers["x-gateway-provider"] == "scripted"
        assert response.headers["x-gateway-attempts"] == "1"
        assert b"".join(response.iter_bytes()) == b"".join(sent) + DONE


def test_the_stream_helper_adds_tool_calls_up(client: openai.OpenAI, upstream: Upstream) -> None:
    def call(**fields: Any) -> bytes:
        return chunk(tool_calls=[{"index": 0, **fields}])

    start = {"name": "get_weather", "arguments": ""}
    upstream.script = streaming(
        [
            chunk(role="assistant", content=None),
            call(id="call_1", type="function", function=start),
            call(function={"arguments": '{"city":'}),
            call(function={"arguments": ' "Paris"}'}),
            chunk("tool_calls"),
            DONE,
        ]
    )
    with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.name == "get_weather"
    assert calls[0].function.arguments == '{"city": "Paris"}'


def test_the_stream_helper_parses_json(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = streaming(chunks('{"name": "Par', 'is", "population"', ": 5}"))
    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, response_format=City
    ) as stream:
        kinds = {each.type for each in stream}
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == City(name="Paris", population=5)
    assert {"content.delta", "content.done"} <= kinds


def test_a_stream_that_breaks_off_is_an_error_in_band(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    async def broken(asked: Asked, peer: Peer) -> None:
        peer.begin()
        peer.piece(chunk(content="Hello"))
        peer.end()

    upstream.script = broken
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)


# --- models -------------------------------------------------------------------------------------


def test_the_models_are_listed_with_the_route(client: openai.OpenAI, upstream: Upstream) -> None:
    names = {model.id for model in client.models.list()}
    assert {"smart", "scripted/gpt-4o-mini", "scripted/gpt-4o"} <= names


def test_a_model_is_retrieved_by_an_id_with_a_slash(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    assert client.models.retrieve("scripted/gpt-4o").id == "scripted/gpt-4o"


async def test_the_async_client_lists_models(
    async_client: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    assert "smart" in {model.id async for model in async_client.models.list()}


def test_a_model_that_is_not_there_is_not_found(client: openai.OpenAI, upstream: Upstream) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("scripted/nothing-of-that-name")
    assert caught.value.code == "model_not_found"


# --- errors -------------------------------------------------------------------------------------

FAILURES: list[tuple[type[openai.APIStatusError], int, Script]] = [
    (openai.BadRequestError, 400, whole(400, error_body("Too hot.", param="temperature"))),
    (openai.NotFoundError, 404, whole(404, error_body("No such model."))),
    (openai.UnprocessableEntityError, 422, whole(422, error_body("Not so."))),
    (openai.RateLimitError, 429, whole(429, error_body("Slow down."), retry_after="7")),
    (openai.InternalServerError, 502, whole(500, error_body("Oh."))),
    (openai.InternalServerError, 502, whole(401, error_body("Bad key."))),
    (openai.InternalServerError, 502, whole(403, error_body("Forbidden."))),
    (openai.InternalServerError, 502, whole(200, b"<html>", content_type="text/html")),
    (openai.InternalServerError, 503, whole(503, error_body("Busy."), retry_after="3")),
    (openai.InternalServerError, 504, whole(504, error_body("Late."))),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("kind", "status", "script"), FAILURES)
def test_a_failing_upstream_is_an_error_of_the_right_class(
    client: openai.OpenAI,
    upstream: Upstream,
    kind: type[openai.APIStatusError],
    status: int,
    script: Script,
    *,
    stream: bool,
) -> None:
    upstream.script = script
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    assert caught.value.status_code == status
    assert caught.value.request_id
    assert len(upstream.asked) == 1


def test_a_400_keeps_its_message_its_param_and_its_code(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    told = error_body("Too long.", param="messages", code="context_length_exceeded")
    upstream.script = whole(400, told)
    with pytest.raises(openai.BadRequestError, match=r"Too long\.") as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")


def test_a_429_keeps_its_retry_after(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(429, error_body("Slow down."), retry_after="7")
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "7"


def test_our_own_bad_credential_is_a_502_that_names_no_key(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(401, error_body("Incorrect API key: sk-upstream-0123456789"))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "upstream_credentials"
    assert "sk-upstream" not in caught.value.response.text


def test_an_upstreams_address_and_key_are_in_no_error(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    address = f"127.0.0.1:{upstream.port}"
    upstream.script = whole(400, error_body(f"At http://{address}/v1 with sk-upstream-0123456789"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert address not in caught.value.response.text
    assert "sk-upstream" not in caught.value.response.text


def test_a_wrong_key_is_401(gateway: Gateway, upstream: Upstream) -> None:
    wrong = "gw-wrong-0123456789abcdef0123456789"
    url = f"{gateway.url}/v1"
    with (
        openai.OpenAI(base_url=url, api_key=wrong, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert upstream.asked == []


def test_a_request_of_the_wrong_type_is_400_with_its_param(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body={"temperature": "warm"}
        )
    assert caught.value.param == "temperature"
    assert upstream.asked == []


async def test_the_async_client_raises_the_same_errors(
    async_client: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(404, error_body("No such model.", code="model_not_found"))
    with pytest.raises(openai.NotFoundError) as caught:
        await async_client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_a_client_that_retries_asks_again(gateway: Gateway, upstream: Upstream) -> None:
    """A 429 with a short pause is worth the SDK's own retries: the gateway was told not to."""
    url = f"{gateway.url}/v1"
    upstream.script = whole(429, error_body("Slow down."), retry_after="0.01")
    with (
        openai.OpenAI(base_url=url, api_key=KEY, max_retries=1) as client,
        pytest.raises(openai.RateLimitError),
    ):
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(upstream.asked) == 2


def test_a_client_does_not_multiply_attempts_at_a_failing_provider(
    gateway: Gateway, upstream: Upstream
) -> None:
    url = f"{gateway.url}/v1"
    upstream.script = whole(500, error_body("Oh."))
    with (
        openai.OpenAI(base_url=url, api_key=KEY, max_retries=2) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_client_does_not_repeat_what_our_bad_credential_stops(
    gateway: Gateway, upstream: Upstream, status: int
) -> None:
    upstream.script = whole(status, error_body("Who are you?"))
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=2) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(upstream.asked) == 1


def test_a_client_that_times_out_lets_the_upstream_go(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = silence
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=MODEL, messages=HELLO, timeout=0.3)
    wait_until(lambda: len(upstream.left) == 1, seconds=2)


def test_unknown_fields_reach_the_upstream(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())
    client.chat.completions.create(
        model=MODEL, messages=HELLO, extra_body={"top_k": 5, "vendor": {"x": [1]}}
    )
    asked = json.loads(upstream.asked[0].body)
    assert (asked["top_k"], asked["vendor"]) == (5, {"x": [1]})


def test_fields_that_would_redirect_the_call_are_dropped_and_named(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion())
    answer = gateway.chat(
        {"model": MODEL, "messages": HELLO, "base_url": "http://192.0.2.1", "api_key": "sk-theirs"}
    )
    assert answer.headers["x-gateway-dropped-params"] == "api_key, base_url"
    assert not {"base_url", "api_key"} & set(upstream.asked[-1].json())
