"""Which provider a relayed request goes to, and who may send it there."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import LazySettings

from chat.errors import (
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    UnsupportedEndpoint,
)
from chat.relays import Relay, RelayRequest
from keys.caller import Caller
from providers.http import HttpClient, Timeouts
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.relaying import find_relay_plan
from providers.snapshot import ProviderFacts, Snapshot, Target

pytestmark = pytest.mark.once
ANYONE = Caller(name="anyone")


@pytest.fixture(autouse=True)
def _no_discovery(monkeypatch: pytest.MonkeyPatch, settings: LazySettings) -> None:
    settings.DEFAULT_PROVIDER = ""
    monkeypatch.setattr("providers.discovery.is_known", lambda snapshot: True)


def facts(name: str, kind: str, **more: Any) -> ProviderFacts:
    options = more.pop("options", {})
    return ProviderFacts(
        name=name,
        kind=kind,
        enabled=True,
        base_url="http://127.0.0.1:1/v1",
        api_key="sk",
        timeouts=Timeouts(),
        max_retries=0,
        options=options,
        **more,
    )


def snapshot(*providers: ProviderFacts, **routes: list[tuple[str, str]]) -> Snapshot:
    by_name = {each.name: each for each in providers}
    targets = {
        name: tuple(Target(by_name[provider], model) for provider, model in route)
        for name, route in routes.items()
    }
    return Snapshot(1, by_name, {}, targets)


OPENAI = facts("openai", "openai")
LAB = facts("lab", "openai-compatible")
LOCAL = facts("local", "huggingface")


async def plan(
    configuration: Snapshot,
    relay: Relay = "audio",
    model: str | None = None,
    *,
    provider: str | None = None,
    caller: Caller = ANYONE,
    method: str = "POST",
) -> list[str]:
    http = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    try:
        found = await find_relay_plan(
            configuration,
            RelayRequest(relay, method, f"/{relay}", model=model),
            provider=provider,
            rights=caller,
            http=http,
        )
    finally:
        await http.aclose()
    return [each.public_name for each in found.targets]


async def refusal(*args: Any, **kwargs: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await plan(*args, **kwargs)
    return caught.value


async def test_a_model_says_where() -> None:
    assert await plan(snapshot(OPENAI, LAB), model="lab/whisper") == ["lab/whisper"]


async def test_a_route_goes_to_those_of_its_targets_that_can() -> None:
    route = [("local", "a"), ("lab", "b"), ("openai", "c")]
    found = await plan(snapshot(OPENAI, LAB, LOCAL, smart=route), "moderations", "smart")
    assert found == ["lab/b", "openai/c"]


async def test_a_named_provider_takes_any_name_of_its_model() -> None:
    for model in ("whisper", "lab/whisper"):
        assert await plan(snapshot(OPENAI, LAB), model=model, provider="lab") == ["lab/whisper"]


async def test_a_bare_name_goes_to_the_only_one_that_can() -> None:
    assert await plan(snapshot(LAB, LOCAL), model="whisper") == ["lab/whisper"]
    assert await plan(snapshot(LAB, LOCAL), "rerank", "BAAI/bge") == ["lab/BAAI/bge"]


async def test_a_bare_name_that_several_could_have_is_not_guessed() -> None:
    assert isinstance(await refusal(snapshot(OPENAI, LAB), model="whisper"), ModelNotFound)


async def test_a_default_provider_that_cannot_does_not_stand_in_the_way(
    settings: LazySettings,
) -> None:
    settings.DEFAULT_PROVIDER = "local"
    assert await plan(snapshot(LAB, LOCAL), model="whisper") == ["lab/whisper"]


async def test_without_a_model_the_default_provider_comes_first(
    settings: LazySettings,
) -> None:
    settings.DEFAULT_PROVIDER = "lab"
    assert await plan(snapshot(OPENAI, LAB)) == ["lab/"]


async def test_without_a_model_several_are_too_many() -> None:
    error = await refusal(snapshot(OPENAI, LAB))
    assert isinstance(error, InvalidRequest)
    assert error.code == "provider_not_named"


async def test_nobody_who_can_is_501() -> None:
    for model in (None, "local/a", "whisper"):
        error = await refusal(snapshot(LOCAL), model=model)
        assert isinstance(error, UnsupportedEndpoint | ModelNotFound)
    assert isinstance(await refusal(snapshot(OPENAI), "rerank"), UnsupportedEndpoint)


async def test_who_can_is_named() -> None:
    error = await refusal(snapshot(LOCAL, LAB, OPENAI), "rerank", "openai/a")
    assert "lab" in error.message


async def test_who_can_is_not_named_to_those_who_may_not() -> None:
    caller = Caller(name="few", models=("openai/*",))
    error = await refusal(snapshot(LAB, OPENAI), "rerank", "openai/a", caller=caller)
    assert "lab" not in error.message


async def test_an_option_of_the_provider_says_what_it_has() -> None:
    reranker = facts("reranker", "openai-compatible", options={"relays": ["rerank"]})
    assert await plan(snapshot(reranker, OPENAI)) == ["openai/"]
    assert await plan(snapshot(reranker, OPENAI), "rerank") == ["reranker/"]


@pytest.mark.parametrize("unusable", [facts("gone", "openai", problem="no key")])
async def test_an_unusable_provider_is_none(unusable: ProviderFacts) -> None:
    assert isinstance(await refusal(snapshot(unusable), provider="gone"), NotFound)
    assert isinstance(await refusal(snapshot(unusable)), UnsupportedEndpoint)


async def test_a_key_uses_its_own_models_only() -> None:
    caller = Caller(name="few", models=("openai/whisper-*",))
    assert await plan(snapshot(OPENAI), model="openai/whisper-1", caller=caller)
    for model in ("openai/gpt-4o-transcribe", "gpt-4o-transcribe"):
        for provider in (None, "openai"):
            error = await refusal(snapshot(OPENAI), model=model, provider=provider, caller=caller)
            assert isinstance(error, ModelNotFound)


@pytest.mark.parametrize("relay", ["moderations", "files", "batches"])
@pytest.mark.parametrize(
    "globs",
    [
        ("openai/gpt-4o",),
        ("openai/gpt*",),
        ("*/gpt-4o",),
        ("openai/?*",),
        ("openai/[!a]*",),
        ("openai/*[!a]",),
        ("openai",),
        ("lab/*",),
        (),
    ],
)
async def test_a_key_of_some_models_does_not_ask_without_one(
    relay: Relay, globs: tuple[str, ...]
) -> None:
    caller = Caller(name="few", models=globs)
    for provider in (None, "openai"):
        error = await refusal(snapshot(OPENAI), relay, provider=provider, caller=caller)
        assert isinstance(error, PermissionDenied)


@pytest.mark.parametrize("globs", [None, ("*",), ("openai/*",), ("open*",), ("a", "openai/*")])
async def test_a_key_of_all_models_of_a_provider_does(globs: tuple[str, ...] | None) -> None:
    caller = Caller(name="many", models=globs)
    assert await plan(snapshot(OPENAI), "files", caller=caller) == ["openai/"]
