"""The same small model, really computed by llama.cpp, by transformers and by mlx-lm."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import signal
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from chat.errors import GatewayError, UpstreamRateLimited, UpstreamRejected
from providers.http import HttpClient
from providers.runner.supervisor import ensure_running
from tests.local_models.local import (
    CAPITAL,
    LONG,
    OURS,
    Local,
    chat,
    consume,
    cpu_ticks,
    require,
    shared,
    streamed_finishes,
    streamed_text,
    text_of,
    ticks_in_half_a_second,
    until,
)

pytestmark = pytest.mark.once


@pytest.fixture(scope="module", params=["llama", *OURS])
def any_engine(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return str(request.param)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Local]:
    """A child of the test's own, that answers one request and lets one wait."""
    require("transformers")
    local = Local("transformers", tmp_path, queue=1)
    yield local
    local.end()


async def test_it_knows_the_capital_of_france(each: Local, http: HttpClient) -> None:
    reply = await each.adapter(http).complete(chat(CAPITAL, temperature=0, max_tokens=24))
    assert "Paris" in text_of(reply.body)
    assert reply.finish_reason == "stop"


async def test_a_stream_says_the_same_as_a_whole_answer(each: Local, http: HttpClient) -> None:
    adapter = each.adapter(http)
    whole = await adapter.complete(chat(CAPITAL, temperature=0, max_tokens=24))
    batches = await consume(adapter, chat(CAPITAL, temperature=0, max_tokens=24, stream=True))
    assert streamed_text(batches) == text_of(whole.body)
    assert streamed_finishes(batches) == ["stop"]
    assert len(batches) > 3
    usages = [chunk.usage for batch in batches for chunk in batch.chunks if chunk.usage]
    assert usages == [whole.usage]


async def test_its_token_counts_are_the_tokenizers(each: Local, http: HttpClient) -> None:
    tokenizer = tokenizer_of(each)
    reply = await each.adapter(http).complete(chat(CAPITAL, temperature=0, max_tokens=24))
    prompt = tokenizer.apply_chat_template(CAPITAL, add_generation_prompt=True, return_dict=False)
    answer = tokenizer.encode(text_of(reply.body), add_special_tokens=False)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(prompt)
    assert reply.usage.completion_tokens == len(answer) + 1  # and the one that ends it
    assert reply.usage.total_tokens == len(prompt) + len(answer) + 1


async def test_it_counts_prompts_also_those_longer_than_its_context(
    each: Local, http: HttpClient
) -> None:
    adapter = each.adapter(http)
    reply = await adapter.complete(chat(CAPITAL, temperature=0, max_tokens=1))
    assert reply.usage is not None
    assert await adapter.count_prompt(chat(CAPITAL, max_tokens=1)) == reply.usage.prompt_tokens
    long = [{"role": "user", "content": "\u65e5\u672c" * 12_000}]
    assert (await adapter.count_prompt(chat(long)) or 0) > 12_000


async def test_an_answer_cut_at_its_limit_says_so_and_has_as_many_tokens(
    each: Local, http: HttpClient
) -> None:
    reply = await each.adapter(http).complete(chat(CAPITAL, temperature=0, max_tokens=3))
    assert reply.finish_reason == "length"
    assert reply.usage is not None and reply.usage.completion_tokens == 3


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_stop_string_ends_the_answer_before_itself(
    each: Local, http: HttpClient, streamed: bool
) -> None:
    # It begins within one token and ends within another.
    request = chat(CAPITAL, temperature=0, max_tokens=24, stop=["nce is P"], stream=streamed)
    adapter = each.adapter(http)
    if streamed:
        batches = await consume(adapter, request)
        text, [finish] = streamed_text(batches), streamed_finishes(batches)
    else:
        reply = await adapter.complete(request)
        text, finish = text_of(reply.body), str(reply.finish_reason)
    assert (text, finish) == ("The capital of Fra", "stop")


async def test_it_embeds_each_text_into_a_vector_of_length_one(each: Local) -> None:
    texts = ["The cat sits on the mat.", "Interest rates rose again.", "The cat sits on the mat."]
    answer = await post(each, "/embeddings", {"input": texts})
    first, second, third = (entry["embedding"] for entry in answer["data"])
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
    assert len(first) == len(second) == 576
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-3) for vector in (first, second))
    assert dot(first, third) > 0.999 > dot(first, second)


async def test_the_engines_agree_on_what_a_text_means(
    children: dict[str, Local], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = {"input": "The cat sits on the mat."}
    engines = ["llama", *OURS]
    vectors = [
        (await post(shared(children, tmp_path_factory, engine), "/embeddings", text))["data"][0]
        for engine in engines
    ]
    reference = vectors[1]["embedding"]
    for engine, vector in zip(engines, vectors, strict=True):
        assert dot(reference, vector["embedding"]) > 0.98, engine


# --- what the runner's own server does ------------------------------------------------------------


async def test_embeddings_come_as_base64_when_asked_and_count_their_tokens(ours: Local) -> None:
    text = "The cat sits on the mat."
    plain = await post(ours, "/embeddings", {"input": text})
    packed = await post(ours, "/embeddings", {"input": text, "encoding_format": "base64"})
    floats = base64.b64decode(packed["data"][0]["embedding"])
    unpacked = struct.unpack(f"<{len(floats) // 4}f", floats)
    assert unpacked == pytest.approx(plain["data"][0]["embedding"], abs=1e-6)
    count = len(tokenizer_of(ours).encode(text))
    assert plain["usage"] == {"prompt_tokens": count, "total_tokens": count}


async def test_a_seed_makes_an_answer_repeatable(ours: Local, http: HttpClient) -> None:
    adapter = ours.adapter(http)

    async def said(seed: int) -> str:
        request = chat(CAPITAL, temperature=1.2, seed=seed, max_tokens=10, ignore_eos=True)
        return text_of((await adapter.complete(request)).body)

    assert await said(7) == await said(7)
    assert len({await said(seed) for seed in range(3)}) > 1


async def test_a_bias_forbids_and_forces_tokens(ours: Local, http: HttpClient) -> None:
    tokenizer = tokenizer_of(ours)
    [paris] = tokenizer.encode(" Paris", add_special_tokens=False)
    adapter = ours.adapter(http)
    without = chat(CAPITAL, temperature=0, max_tokens=12, logit_bias={str(paris): -100})
    only = chat(CAPITAL, temperature=0, max_tokens=2, logit_bias={str(paris): 100})
    assert "Paris" not in text_of((await adapter.complete(without)).body)
    assert text_of((await adapter.complete(only)).body) == " Paris Paris"


async def test_penalties_make_what_was_said_less_likely(ours: Local, http: HttpClient) -> None:
    adapter = ours.adapter(http)

    async def repeats(**fields: Any) -> int:
        request = chat(LONG, temperature=0, max_tokens=36, ignore_eos=True, **fields)
        words = text_of((await adapter.complete(request)).body).split()
        return len(words) - len(set(words))

    plain = await repeats()
    assert await repeats(frequency_penalty=2, presence_penalty=2) < plain


async def test_log_probabilities_are_those_of_the_tokens_said(
    ours: Local, http: HttpClient
) -> None:
    request = chat(CAPITAL, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2)
    reply = await ours.adapter(http).complete(request)
    [choice] = json.loads(reply.body)["choices"]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    for entry in entries:
        assert entry["logprob"] < 0
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy: the likeliest
        assert bytes(entry["bytes"]).decode() == entry["token"]


async def test_a_text_is_completed_and_echoed(ours: Local) -> None:
    prompt = "The capital of France is"
    asked = {"prompt": prompt, "max_tokens": 4, "temperature": 0}
    plain = await post(ours, "/completions", asked)
    echoed = await post(ours, "/completions", {**asked, "echo": True})
    assert "Paris" in plain["choices"][0]["text"]
    assert echoed["choices"][0]["text"] == prompt + plain["choices"][0]["text"]
    ids = tokenizer_of(ours).encode(prompt)
    by_ids = await post(ours, "/completions", {**asked, "prompt": [ids, ids]})
    assert [choice["text"] for choice in by_ids["choices"]] == [plain["choices"][0]["text"]] * 2
    assert by_ids["usage"]["prompt_tokens"] == 2 * len(ids) == 2 * plain["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 17}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"stop": [""]}, "stop[0]"),
        ({"top_logprobs": 50}, "top_logprobs"),
        ({"logit_bias": {"Paris": 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": "hello " * 9000}]}, "messages"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ]
            },
            "messages",
        ),
    ],
)
async def test_what_it_cannot_do_is_refused_with_the_field(
    ours: Local, http: HttpClient, fields: dict[str, Any], param: str
) -> None:
    request = chat(**{"messages": CAPITAL, **fields})
    with pytest.raises(UpstreamRejected) as refused:
        await ours.adapter(http).complete(request)
    assert (refused.value.http_status, refused.value.param) == (400, param)


async def test_nobody_gets_an_answer_without_the_key(ours: Local) -> None:
    place = await ensure_running(ours.model, data_dir=ours.data_dir)
    for path in ("/chat/completions", "/completions", "/embeddings", "/models"):
        request = urllib.request.Request(
            place.base_url + path, b"{}", {"authorization": "Bearer guess"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(urllib.request.urlopen, request)
        assert refused.value.code == 401
        refused.value.close()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_caller_who_hangs_up_stops_the_generation(
    ours: Local, http: HttpClient, streamed: bool
) -> None:
    await ensure_running(ours.model, data_dir=ours.data_dir)
    pid = ours.state.pid
    request = chat(LONG, max_tokens=3000, ignore_eos=True, stream=streamed)
    task = asyncio.create_task(consume(ours.adapter(http), request))
    idle = cpu_ticks(pid)
    await until(lambda: cpu_ticks(pid) > idle + 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: ticks_in_half_a_second(pid) < 10)


async def test_a_long_prompt_nobody_waits_for_is_not_computed_to_its_end(
    ours: Local, http: HttpClient
) -> None:
    await ensure_running(ours.model, data_dir=ours.data_dir)
    pid = ours.state.pid
    idle = cpu_ticks(pid)
    request = chat([{"role": "user", "content": "river " * 7000}], max_tokens=5)
    task = asyncio.create_task(consume(ours.adapter(http), request))
    await until(lambda: cpu_ticks(pid) > idle + 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: ticks_in_half_a_second(pid) < 10)
    spent = cpu_ticks(pid) - idle
    assert spent < 2000  # the whole prompt is some minutes of work with MLX


async def test_a_prompt_is_never_in_the_runners_log(ours: Local, http: HttpClient) -> None:
    secret = [{"role": "user", "content": "xyzzyplugh " * 3}]
    await ours.adapter(http).complete(chat(secret, max_tokens=2))
    with pytest.raises(UpstreamRejected):
        await ours.adapter(http).complete(chat([*secret, *secret], n=17))
    assert "xyzzy" not in ours.log


async def test_callers_are_answered_in_the_order_they_came(ours: Local, http: HttpClient) -> None:
    ended: list[int] = []

    async def ask(number: int) -> None:
        await ours.adapter(http).complete(chat(CAPITAL, max_tokens=2))
        ended.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(ask(number))
            await asyncio.sleep(0.05)
    assert ended == [0, 1, 2, 3]


async def test_a_full_queue_is_told_at_once_with_a_time(alone: Local, http: HttpClient) -> None:
    async with aclosing(endless(alone, http)) as running:
        await anext(running)
        waiting = asyncio.create_task(consume(alone.adapter(http), chat(CAPITAL, max_tokens=1)))
        await asyncio.sleep(0.3)
        with pytest.raises(UpstreamRateLimited) as told:
            async with asyncio.timeout(5):
                await alone.adapter(http).complete(chat(CAPITAL, max_tokens=1))
        assert told.value.http_status == 429
        assert told.value.code == "queue_full"
        assert int(told.value.retry_after or 0) >= 1
    await waiting  # who was let in is answered once the first has left


async def test_who_leaves_the_queue_makes_room(alone: Local, http: HttpClient) -> None:
    async with aclosing(endless(alone, http)) as running:
        await anext(running)
        leaving = asyncio.create_task(consume(alone.adapter(http), chat(CAPITAL, max_tokens=1)))
        await asyncio.sleep(0.3)
        leaving.cancel()
        await asyncio.sleep(0.3)
        waiting = asyncio.create_task(consume(alone.adapter(http), chat(CAPITAL, max_tokens=1)))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    await waiting


async def test_a_child_killed_in_the_middle_of_a_stream_costs_that_stream_only(
    alone: Local, http: HttpClient
) -> None:
    async with aclosing(endless(alone, http)) as running:
        await anext(running)
        waiting = asyncio.create_task(alone.adapter(http).complete(chat(CAPITAL, temperature=0)))
        await asyncio.sleep(0.3)
        os.kill(alone.state.pid, signal.SIGKILL)
        with pytest.raises(GatewayError):
            async for _batch in running:
                pass
    assert "Paris" in text_of((await waiting).body)  # by the child that followed
    assert alone.state.failures == 1


async def test_a_model_nobody_asks_leaves_the_memory_and_comes_back(
    tmp_path: Path, http: HttpClient
) -> None:
    require("transformers")
    local = Local("transformers", tmp_path, idle_s=0.5)
    try:
        adapter = local.adapter(http)
        await adapter.complete(chat(CAPITAL, max_tokens=1))
        await until(lambda: not local.files.is_locked())
        assert local.files.read_state() is None
        reply = await adapter.complete(chat(CAPITAL, temperature=0, max_tokens=12))
        assert "Paris" in text_of(reply.body)
    finally:
        local.end()


async def test_the_embedded_models_queue_has_a_bound_too(
    children: dict[str, Local], tmp_path_factory: pytest.TempPathFactory, http: HttpClient
) -> None:
    local = shared(children, tmp_path_factory, "llama")
    most = local.model.slots + local.model.queue
    request = chat(CAPITAL, max_tokens=1)
    answers = await asyncio.gather(
        *(local.adapter(http).complete(request) for _ in range(most + 3)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, UpstreamRateLimited)]
    assert len(refused) == 3
    assert all(each.code == "queue_full" and each.retry_after for each in refused)


def endless(local: Local, http: HttpClient) -> Any:
    return local.adapter(http).stream(chat(LONG, max_tokens=3000, ignore_eos=True, stream=True))


def tokenizer_of(local: Local) -> Any:
    require("transformers")
    from transformers import AutoTokenizer

    folder = Local("transformers", local.data_dir).model.path
    return AutoTokenizer.from_pretrained(folder)


async def post(local: Local, path: str, body: dict[str, Any]) -> Any:
    """Asks the child itself, past the adapter."""
    place = await ensure_running(local.model, data_dir=local.data_dir)
    request = urllib.request.Request(
        place.base_url + path,
        json.dumps(body).encode(),
        {"authorization": f"Bearer {place.api_key}", "content-type": "application/json"},
    )

    def ask() -> Any:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)


def dot(left: list[float], right: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
