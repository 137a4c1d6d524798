"""Recorded conversations with other servers of OpenAI's wire, held again through the gateway as an
OpenAI-compatible provider: what was right comes through as it came, what was not is mended."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.gateway import Gateway, wait_until
from tests.recordings import every, needs, recorded
from tests.upstream import Upstream
from tests.wire.test_openai_replay import recorded_usage, shown, through

FILES = ("other-providers", "local-servers", "huggingface", "ollama")


INTERACTIONS = recorded(*FILES, endpoint="/v1/chat/completions")
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]
every_interaction = every(INTERACTIONS)


WRONG_TYPE = {"lmstudio-839de00e8209": "its temperature is a string, which we refuse ourselves"}
FINISHES = {"eos": "stop"}


@every_interaction
def test_the_upstream_gets_the_request_as_it_came(
    gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    sent = interaction["request"]["json"]
    answered = through(gateway, upstream, interaction)
    if interaction["id"] in WRONG_TYPE:
        assert (answered.status, upstream.asked) == (400, [])
        return
    got = upstream.asked[0].json()
    got.pop("stream_options", None)
    assert got == {name: value for name, value in sent.items() if name != "stream_options"}


@every_interaction
def test_the_caller_gets_the_answer_as_it_was_recorded(
    gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    response, sent = interaction["response"], interaction["request"]["json"]
    answered = through(gateway, upstream, interaction)
    if interaction["id"] in WRONG_TYPE:
        return
    chunks, failure = said(response)
    if failure is not None and not chunks:
        assert answered.status == (502 if failure in (401, 402, 403) else failure)
        assert answered.json()["error"]["message"]
        return
    assert answered.status == 200
    if response["body_text"] is None:
        assert answered.json() == mended(response["body"])
        return
    got = events(answered.body.decode())
    if failure is None:
        assert got[-1] == "[DONE]"
    else:
        assert "error" in json.loads(got[-1])
    assert [json.loads(data) for data in got[:-1]] == shown(list(map(mended, chunks)), sent)


def said(response: dict[str, Any]) -> tuple[list[Any], int | None]:
    """The chunks of a stream, and the status of the failure an answer was or ended in, if any; some
    servers tell it under the status 200."""
    if response["body_text"] is None:
        error = response["body"].get("error")
        failed = response["status"] != 200 or error is not None
        return [], status_of(error, response["status"]) if failed else None
    values = [json.loads(data) for data in events(response["body_text"]) if data != "[DONE]"]
    errors = [value["error"] for value in values if value.get("error") is not None]
    chunks = [value for value in values if value.get("error") is None]
    return chunks, status_of(errors[0], 200) if errors else None


def events(raw: str) -> list[str]:
    """The data of every event, those with a type among them."""
    lines = raw.replace("\r\n", "\n").split("\n")
    return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]


def status_of(error: Any, status: int) -> int:
    if status != 200:
        return status
    told = [error.get(name) for name in ("status_code", "status", "code")]
    return next((each for each in told if isinstance(each, int)), 400)


def mended(answer: Any) -> Any:
    """An answer or a chunk with what no client of OpenAI's takes put right: content in parts
    (Mistral's thoughts among it), and finish reasons of the server's own."""
    for choice in answer["choices"]:
        if finish := choice.get("finish_reason"):
            choice["finish_reason"] = FINISHES.get(finish, finish)
        words = choice.get("message") or choice.get("delta") or {}
        if isinstance(words.get("content"), list):
            parts, words["content"] = words["content"], ""
            for part in parts:
                if part["type"] == "thinking":
                    thought = "".join(each["text"] for each in part["thinking"])
                    if thought:
                        words["reasoning_content"] = words.get("reasoning_content", "") + thought
                else:
                    words["content"] += part["text"]
    return answer


def test_the_ledger_has_the_recorded_usage_of_every_interaction(
    gateway: Gateway, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, tuple[str, int, int]] = {}
    left_out: Counter[str] = Counter()
    for interaction in INTERACTIONS:
        if reason := WRONG_TYPE.get(interaction["id"]):
            left_out[reason] += 1
            continue
        response = interaction["response"]
        through(gateway, upstream, {**interaction, "id": f"ledger-{interaction['id']}"})
        chunks, failure = said(response)
        if failure is not None:
            if chunks:
                left_out["failed in the middle, without usage"] += 1
            else:
                told[f"ledger-{interaction['id']}"] = ("error", 0, 0)
            continue
        usage = recorded_usage(response)
        if usage is None or usage.get("prompt_tokens") is None:
            left_out["recorded without usage"] += 1
            continue
        counts = (usage["prompt_tokens"], usage["completion_tokens"])
        told[f"ledger-{interaction['id']}"] = ("success", *counts)
    wait_until(lambda: told.keys() <= {row.request_id for row in gateway.rows()}, seconds=20)
    found = {
        row.request_id: (row.status, row.tokens_input, row.tokens_output)
        for row in gateway.rows()
        if row.request_id in told
    }
    with capsys.disabled():
        print(
            f"\n{len(INTERACTIONS)} recorded interactions of compatible servers replayed, "
            f"{len(told)} compared with the ledger, left out: {dict(left_out) or 'none'}"
        )
    assert found == told
