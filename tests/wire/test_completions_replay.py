"""Recorded text completions of several services, asked for again through the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway import Answered, Gateway
from tests.recordings import every, needs, recorded
from tests.upstream import Upstream
from tests.wire.test_openai_replay import compare_streams, playing

INTERACTIONS = recorded(endpoint="/v1/completions")
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]


@every(INTERACTIONS)
def test_request_and_answer_are_as_recorded(
    gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    sent, response = interaction["request"]["json"], interaction["response"]
    answered = replay(gateway, upstream, interaction)
    (asked,) = upstream.asked
    got = asked.json()
    options = got.pop("stream_options", None)
    assert got == {name: value for name, value in sent.items() if name != "stream_options"}
    assert (options or {}).get("include_usage", False) is bool(sent.get("stream"))
    if response["status"] == 401:
        assert answered.status == 502
    elif response["status"] != 200:
        assert answered.status == response["status"]
        assert answered.json()["error"] == response["body"]["error"]
    elif response["body_text"] is not None:
        compare_streams(answered, response["body_text"], sent)
    else:
        assert answered.json() == expected(response["body"])


def test_the_ledger_has_the_recorded_usage_of_every_interaction(
    gateway: Gateway, upstream: Upstream
) -> None:
    for interaction in INTERACTIONS:
        replay(gateway, upstream, interaction)
    for interaction in INTERACTIONS:
        response, row = interaction["response"], gateway.usage_row(interaction["id"])
        assert row["endpoint"] == "completions"
        if response["status"] != 200:
            assert row["status"] == "error"
        elif response["body_text"] is None:
            assert row["tokens_input"] == response["body"]["usage"]["prompt_tokens"]
            assert row["tokens_output"] == response["body"]["usage"]["completion_tokens"]


def replay(gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]) -> Answered:
    upstream.script = playing(interaction["response"])
    sent = interaction["request"]["json"]
    request = {**sent, "model": f"scripted/{sent['model']}"}
    return gateway.post("/v1/completions", request, x_request_id=interaction["id"])


def expected(body: dict[str, Any]) -> dict[str, Any]:
    """The recorded answer with the finish reasons OpenAI's client knows."""
    choices = [
        {**each, "finish_reason": {"eos": "stop"}.get(each["finish_reason"], each["finish_reason"])}
        for each in body["choices"]
    ]
    return {**body, "choices": choices}
