"""Answers that were given and are told as failures all the same: the ledger calls them so, and
bills what the upstream has counted for them (M23)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import anthropic_upstream as claude
from tests.conftest import spare_database
from tests.gateway import Answered, Gateway, configuration, with_ollama
from tests.upstream import (
    DONE,
    NDJSON,
    Asked,
    Peer,
    Upstream,
    chat_line,
    chunk,
    completion,
    last_line,
    scripted_upstream,
    silence,
    streaming,
    usage_chunk,
    whole,
)

pytestmark = pytest.mark.once

HELLO = [{"role": "user", "content": "hello"}]
NO_OBJECT = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "now", "arguments": '"x"'},
}
TOOL = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
}
OTHER_WIRES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"max_tokens": 9, "messages": HELLO},
    "/api/chat": {"messages": HELLO},
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Providers `scripted`, `llama` and `claude`: one upstream in three dialects."""
    folder: Path = tmp_path_factory.mktemp("refused")
    settings = with_ollama(configuration(provider.base_url))
    (scripted, _) = settings["providers"]
    root = provider.base_url.removesuffix("/v1")
    settings["providers"] += [
        {**scripted, "name": "claude", "kind": "anthropic", "base_url": root, "max_retries": 1}
    ]
    settings["keys"][0]["rpm"] = 100_000
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(settings)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def ask(gateway: Gateway, path: str, **fields: Any) -> tuple[Answered, dict[str, Any]]:
    """The answer, and its row in the ledger."""
    request_id = f"refused-{uuid.uuid4().hex}"
    answered = gateway.post(path, fields, x_request_id=request_id)
    return answered, gateway.usage_row(request_id)


def billed(row: dict[str, Any]) -> tuple[str, str, int, int]:
    return row["status"], row["error_code"] or "", row["tokens_input"], row["tokens_output"]


@pytest.mark.parametrize("path", OTHER_WIRES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_wire_cannot_say_is_an_error_and_billed(
    served: Gateway, provider: Upstream, path: str, stream: bool
) -> None:
    if stream:
        call = chunk(role="assistant", tool_calls=[{"index": 0, **NO_OBJECT}])
        provider.script = streaming([call, chunk("tool_calls"), usage_chunk(9, 3), DONE])
    else:
        provider.script = whole(200, completion(None, tool_calls=[NO_OBJECT]))
    fields = {**OTHER_WIRES[path], "stream": stream}
    answered, row = ask(served, path, model="scripted/m", **fields)
    if not stream:
        assert answered.status == 502
    assert b"JSON object" in answered.body
    assert billed(row) == ("error", "upstream_failed", 9, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_the_call_it_owes_is_billed(
    served: Gateway, provider: Upstream, stream: bool
) -> None:
    fields = {"messages": HELLO, "tools": [TOOL], "tool_choice": "required", "stream": stream}
    last = last_line(content="No.")
    if stream:
        provider.script = streaming([chat_line(content="No. "), last], content_type=NDJSON)
    else:
        provider.script = whole(200, last)
    answered, row = ask(served, "/v1/chat/completions", model="llama/m", **fields)
    assert answered.status == 422
    assert billed(row) == ("error", "tool_choice_not_met", 9, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_answer_without_the_call_it_owes_is_billed(
    served: Gateway, provider: Upstream, stream: bool
) -> None:
    """Of a model that cannot be forced to call."""
    fields = {
        "messages": HELLO,
        "tools": [TOOL],
        "tool_choice": "required",
        "stream": stream,
    }
    if stream:
        said = claude.block(0, claude.text(""), {"type": "text_delta", "text": "No."})
        ended = claude.event(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"output_tokens": 7},
        )
        provider.script = streaming([claude.start(), *said, ended, claude.event("message_stop")])
    else:
        provider.script = whole(200, claude.message(claude.text("No.")))
    model = "claude/claude-opus-5-5"
    answered, row = ask(served, "/v1/chat/completions", model=model, **fields)
    assert answered.status == 422, answered.body
    assert billed(row) == ("error", "tool_choice_not_met", 60, 7)


@pytest.mark.parametrize("stream", [False, True])
def test_ollamas_call_without_an_object_is_billed(
    served: Gateway, provider: Upstream, stream: bool
) -> None:
    call = {"function": {"name": "now", "arguments": [1]}}
    last = last_line(tool_calls=[call])
    provider.script = streaming([last], content_type=NDJSON) if stream else whole(200, last)
    fields = {"messages": HELLO, "tools": [TOOL], "stream": stream}
    answered, row = ask(served, "/v1/chat/completions", model="llama/m", **fields)
    assert answered.status == 502
    assert billed(row) == ("error", "upstream_failed", 9, 3)


ALL_WIRES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/responses": {"input": "hello"},
    **OTHER_WIRES,
}


@pytest.mark.parametrize("path", ALL_WIRES)
def test_an_end_without_a_reason_is_given_none(
    served: Gateway, provider: Upstream, path: str
) -> None:
    """`[DONE]` after an answer and no `finish_reason`: nothing says `stop` for the upstream."""
    provider.script = streaming([chunk(role="assistant", content="Hi"), usage_chunk(9, 3), DONE])
    answered, row = ask(served, path, model="scripted/m", stream=True, **ALL_WIRES[path])
    assert answered.status == 200  # M26
    assert b"Hi" in answered.body
    for told in (b'"stop"', b'"end_turn"', b'"status":"completed"', b"error", b"response.failed"):
        assert told not in answered.body.replace(b'"error":null', b""), told
    assert row["finish_reason"] in (None, "")
    assert billed(row) == ("success", "", 9, 3)


@pytest.mark.parametrize("path", ALL_WIRES)
def test_an_end_of_nothing_is_a_failure(served: Gateway, provider: Upstream, path: str) -> None:
    provider.script = streaming([chunk(role="assistant", content=""), DONE])
    answered, row = ask(served, path, model="scripted/m", stream=True, **ALL_WIRES[path])
    assert answered.status == 502  # M27
    assert row["status"] == "error"


class Failing:
    """Answers, but for the calls that are counted here, which are overloaded."""

    def __init__(self, *calls: int) -> None:
        self._calls, self._count = calls, 0

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        self._count += 1
        if self._count in self._calls:
            peer.answer(529, json.dumps(claude.error("overloaded_error")).encode())
        else:
            peer.answer(200, json.dumps(claude.message(claude.text("Yes."))).encode())


def test_prompts_before_one_that_fails_are_billed(served: Gateway, provider: Upstream) -> None:
    provider.script = Failing(3, 6)
    fields = {"model": "claude/m", "prompt": ["a", "b", "c"], "max_tokens": 9}
    answered, row = ask(served, "/v1/completions", **fields)
    assert answered.status == 503
    # Two answers before each of two failures: the second attempt begins anew.
    assert billed(row) == ("error", "upstream_overloaded", 4 * 60, 4 * 7)
    assert row["attempts"] == 2


def test_prompts_answered_in_vain_are_billed_with_the_answer(
    served: Gateway, provider: Upstream
) -> None:
    provider.script = Failing(2)
    fields = {"model": "claude/m", "prompt": ["a", "b"], "max_tokens": 9}
    answered, row = ask(served, "/v1/completions", **fields)
    assert answered.json()["usage"]["completion_tokens"] == 2 * 7
    assert billed(row) == ("success", "", 3 * 60, 3 * 7)


def test_a_first_prompt_that_fails_costs_nothing(served: Gateway, provider: Upstream) -> None:
    provider.script = Failing(1, 2)
    fields = {"model": "claude/m", "prompt": ["a", "b"], "max_tokens": 9}
    answered, row = ask(served, "/v1/completions", **fields)
    assert answered.status == 503
    assert billed(row) == ("error", "upstream_overloaded", 0, 0)


@pytest.mark.parametrize("model", ["claude/m", "scripted/m"])
def test_a_count_tells_how_it_came_to_be(served: Gateway, provider: Upstream, model: str) -> None:
    provider.script = whole(200, {"input_tokens": 9})
    answered = served.post("/v1/messages/count_tokens", {"model": model, "messages": HELLO})
    assert answered.status == 200
    assert answered.headers["x-gateway-provider"] == model.partition("/")[0]
    assert answered.headers["x-gateway-attempts"] == "1"
    assert float(answered.headers["x-gateway-overhead-ms"]) >= 0
    assert answered.headers["x-ratelimit-limit-requests"] == "100000"
