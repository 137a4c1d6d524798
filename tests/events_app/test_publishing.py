"""What a running gateway tells of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import spare_database
from tests.gateway import KEY, Gateway, Told, configuration, wait_until
from tests.upstream import (
    Asked,
    Peer,
    Script,
    Upstream,
    completion,
    scripted_upstream,
    silence,
    whole,
)

MESSAGES = [{"role": "user", "content": "a secret prompt"}]
LIMITED = "gw-test-limited-0123456789abcdef0123456789"


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


def configured(provider: Upstream) -> dict[str, Any]:
    """The route `smart` falls back from `scripted`, which tries twice, to `second`."""
    found = configuration(provider.base_url, max_retries=1)
    (scripted,) = found["providers"]
    found["providers"].append({**scripted, "name": "second", "max_retries": 0})
    found["routes"][0]["targets"].append({"provider": "second", "model": "gpt-4o-mini"})
    found["providers"].append({**scripted, "name": "plain", "max_retries": 0})
    flags = {"structured_output": False, "json_mode": False}
    found.setdefault("deployments", []).append(
        {"provider": "plain", "model": "gpt-4o-mini", "capabilities": flags}
    )
    found["keys"].append({"name": "limited", "secret": LIMITED, "rpm": 1})
    return found


@pytest.fixture(scope="module")
def told_by(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("events")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        gateway.apply(configured(provider))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def events_of(gateway: Gateway, request_id: str, *, number: int) -> list[Told]:
    """A request's events, once there are so many."""

    def found() -> list[Told]:
        return [each for each in gateway.events() if each.request_id == request_id]

    wait_until(lambda: len(found()) >= number, seconds=10, why=lambda: str(found()))
    return found()


def busy_once() -> Script:
    asked_before: list[Asked] = []

    async def script(asked: Asked, peer: Peer) -> None:
        if not asked_before:
            asked_before.append(asked)
            peer.answer(503, b"{}", retry_after="0")
            return
        peer.answer(200, json.dumps(completion()).encode())

    return script


def test_a_retry_is_told_between_beginning_and_end(told_by: Gateway, provider: Upstream) -> None:
    provider.script = busy_once()
    answered = told_by.chat(
        {"model": "scripted/gpt-4o-mini", "messages": MESSAGES}, x_request_id="retried"
    )
    assert answered.status == 200
    started, retry, ended = events_of(told_by, "retried", number=3)
    assert (started.type, retry.type, ended.type) == (
        "generation_started",
        "retry_attempted",
        "generation_completed",
    )
    assert retry.fields == {"attempt": 1, "delay_ms": 0, "error_type": "upstream_overloaded"}
    assert (retry.key, retry.provider, retry.model) == ("ci", "scripted", "scripted/gpt-4o-mini")
    assert ended.fields["attempts"] == 2


def test_a_fallback_is_told_with_its_reason(told_by: Gateway, provider: Upstream) -> None:
    provider.script = whole(401, {})
    answered = told_by.chat({"model": "smart", "messages": MESSAGES}, x_request_id="fallen")
    assert answered.status == 502
    started, fallback, ended, error = events_of(told_by, "fallen", number=4)
    assert started.fields == {"stream": False, "has_tools": False, "route": "smart"}
    assert fallback.fields == {
        "from_provider": "scripted",
        "to_provider": "second",
        "reason": "upstream_credentials",
    }
    assert (ended.fields["success"], ended.fields["status"]) == (False, "error")
    assert error.fields["code"] == "upstream_credentials"


def test_answers_that_would_not_do_are_told_without_what_they_said(
    told_by: Gateway, provider: Upstream
) -> None:
    provider.script = whole(200, completion("a secret answer"))
    answered = told_by.chat(
        {
            "model": "plain/gpt-4o-mini",
            "messages": MESSAGES,
            "response_format": {"type": "json_object"},
        },
        x_request_id="invalid",
    )
    assert answered.status == 422
    first, second = (
        each for each in events_of(told_by, "invalid", number=5) if each.type == "validation_failed"
    )
    assert (first.fields["attempt"], second.fields["attempt"]) == (1, 2)
    assert first.fields["error"]
    assert not any("secret" in str(each.fields) for each in told_by.events())


def test_a_refusal_is_told_once_a_second_and_key(told_by: Gateway, provider: Upstream) -> None:
    provider.script = whole(200, completion())
    asked = {"model": "scripted/gpt-4o-mini", "messages": MESSAGES}
    key = {"authorization": f"Bearer {LIMITED}"}
    for number in range(6):
        told_by.chat(asked, x_request_id=f"limited-{number}", **key)
    (refusal,) = events_of(told_by, "limited-1", number=1)
    assert (refusal.type, refusal.key) == ("rate_limited", "limited")
    assert refusal.fields["refusals"] == 1
    assert "requests a minute" in refusal.fields["reason"]
    told = [each for each in told_by.events() if each.type == "rate_limited"]
    assert len(told) < 5


def test_a_change_of_the_configuration_is_told_once(told_by: Gateway, provider: Upstream) -> None:
    changed = configured(provider)
    changed["providers"][1]["timeout_s"] = 7
    told_by.apply(changed)
    wait_until(lambda: any(each.type == "config_changed" for each in told_by.events()), seconds=10)
    told = [each for each in told_by.events() if each.type == "config_changed"]
    revisions = [each.fields["revision"] for each in told]
    assert len(revisions) == len(set(revisions))


def test_nothing_that_was_said_is_in_any_event(told_by: Gateway, provider: Upstream) -> None:
    provider.script = whole(200, completion("a secret answer"))
    told_by.chat({"model": "smart", "messages": MESSAGES}, x_request_id="private")
    events_of(told_by, "private", number=2)
    text = json.dumps(told_by.events())
    assert "secret" not in text
    assert KEY not in text
    assert "127.0.0.1" not in text
