"""Recorded embeddings of several services, asked for again through the gateway."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Answered, Gateway
from tests.upstream import Upstream, whole

WIRE = Path(__file__).resolve().parents[3] / "shared/wire"
FILES = ("openai-other.jsonl.gz", "other-providers.jsonl.gz", "local-servers.jsonl.gz")


def recorded() -> list[dict[str, Any]]:
    found = []
    for name in FILES:
        if (WIRE / name).exists():
            with gzip.open(WIRE / name, "rt", encoding="utf-8") as lines:
                found += [json.loads(line) for line in lines]
    return [each for each in found if each["endpoint"].endswith("/embeddings")]


INTERACTIONS = recorded()
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not INTERACTIONS, reason="the recorded interactions are not here"),
]


@pytest.mark.parametrize("interaction", INTERACTIONS, ids=[each["id"] for each in INTERACTIONS])
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
