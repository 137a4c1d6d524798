"""Recorded embeddings of several services, asked for again through the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway import Answered, Gateway
from tests.recordings import every, needs, recorded
from tests.upstream import Upstream, whole

INTERACTIONS = [each for each in recorded() if each["endpoint"].endswith("/embeddings")]
pytestmark = [
    pytest.mark.once,
    needs(INTERACTIONS),
]


@every(INTERACTIONS)
def test_request_and_answer_are_as_recorded(
    gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]
) -> None:
    response = interaction["response"]
    answered = replay(gateway, upstream, interaction)
    (asked,) = upstream.asked
    assert asked.json() == interaction["request"]["json"]
    assert answered.status == response["status"]
    if response["status"] != 200:
        assert answered.json()["error"] == response["body"]["error"]
    else:
        assert answered.json() == response["body"]


def test_the_ledger_has_the_recorded_usage_of_every_interaction(
    gateway: Gateway, upstream: Upstream
) -> None:
    for interaction in INTERACTIONS:
        replay(gateway, upstream, interaction)
    for interaction in INTERACTIONS:
        response, row = interaction["response"], gateway.usage_row(interaction["id"])
        assert row["endpoint"] == "embeddings"
        if response["status"] != 200:
            assert (row["status"], row["tokens_input"]) == ("error", 0)
        else:
            assert row["status"] == "success"
            assert row["tokens_input"] == response["body"]["usage"]["prompt_tokens"]


def replay(gateway: Gateway, upstream: Upstream, interaction: dict[str, Any]) -> Answered:
    response, sent = interaction["response"], interaction["request"]["json"]
    upstream.script = whole(response["status"], response["body"])
    request = {**sent, "model": f"scripted/{sent['model']}"}
    return gateway.post("/v1/embeddings", request, x_request_id=interaction["id"])
