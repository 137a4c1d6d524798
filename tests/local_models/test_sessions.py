"""A session of the embedded model, for real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from providers.runner.catalogue import EMBEDDED_MODEL
from tests.conftest import require_or_skip, spare_database
from tests.gateway import KEY, Gateway

pytestmark = pytest.mark.once
TURNS = 10


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if find_spec("xllamacpp") is None:
        require_or_skip("the extra [local] is not installed")
    folder = tmp_path_factory.mktemp("session")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply({"providers": [], "keys": [{"name": "ci", "secret": KEY}]})
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def test_ten_turns_and_a_summary(gateway: Gateway) -> None:
    made = gateway.post(
        "/v1/sessions",
        {"model": f"huggingface/{EMBEDDED_MODEL}", "max_tokens": 8, "temperature": 0},
    )
    session = made.json()["id"]
    counts = []
    for turn in range(TURNS):
        body = {"messages": [{"role": "user", "content": f"Say {turn}."}], "stream": turn % 2 == 1}
        answered = gateway.post(f"/v1/sessions/{session}/chat", body)
        assert answered.status == 200, answered.body
        if not body["stream"]:
            counts.append(answered.json()["usage"]["prompt_tokens"])
    assert counts == sorted(set(counts)), "each prompt holds what was said before"
    assert read(gateway, session)["message_count"] == 2 * TURNS
    compacted = gateway.post(f"/v1/sessions/{session}/compact", {})
    assert compacted.json()["compacted_messages"] == 2 * TURNS - 2
    assert read(gateway, session)["messages"][0]["summary"] is True


def read(gateway: Gateway, session: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {KEY}"}
    found: dict[str, Any] = json.loads(
        gateway.call("GET", f"/v1/sessions/{session}", headers=headers).body
    )
    return found
