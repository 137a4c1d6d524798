"""What is known of a model, and whose word counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chat.types import ModelInfo
from providers import listings
from providers.capabilities import CAPABILITY_NAMES, Capabilities, family_flags, merge
from providers.snapshot import DeploymentFacts, Target, capabilities_of
from tests.providers.listed import facts, listed

pytestmark = pytest.mark.once


def test_a_later_layer_counts_more_and_an_absent_one_not_at_all() -> None:
    merged = merge(Capabilities(), [{"tools": False, "vision": False}, None, {}, {"tools": True}])
    assert (merged.tools, merged.vision, merged.audio) == (True, False, True)


def test_what_is_no_flag_of_ours_is_passed_over() -> None:
    assert merge(Capabilities(), [{"telepathy": True, "tools": "no"}]) == Capabilities()  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "model",
    ["text-embedding-3-small", "nomic-embed-text:latest", "openai/text-embedding-3-large"]
    + [
        "mxbai-embed-large",
        "BAAI/bge-m3",
        "all-minilm:22m",
        "voyage-embed",
        "sfr-embedding-mistral",
    ],
)
def test_an_embedder_does_nothing_else(model: str) -> None:
    flags = merge(Capabilities(), [family_flags(model)]).as_dict()
    assert [name for name, flag in flags.items() if flag] == ["embeddings"]


@pytest.mark.parametrize(
    "model", ["whisper-1", "tts-1-hd", "dall-e-3", "gpt-image-1", "omni-moderation-latest"]
)
def test_models_of_sound_pictures_and_verdicts_do_not_chat(model: str) -> None:
    assert not any(merge(Capabilities(), [family_flags(model)]).as_dict().values())


@pytest.mark.parametrize(
    ("model", "unable"),
    [
        ("gpt-3.5-turbo", {"vision", "audio", "reasoning", "embeddings"}),
        ("gpt-4o-mini-2024-07-18", {"audio", "reasoning", "embeddings"}),
        ("gpt-4o-audio-preview", {"reasoning", "embeddings"}),
        ("openai/gpt-4.1", {"audio", "reasoning", "embeddings"}),
        ("gpt-5.1", {"embeddings"}),
        ("o3-mini", {"embeddings"}),
        ("claude-3-5-haiku-latest", {"audio", "reasoning", "embeddings"}),
        ("anthropic.claude-3-haiku-20240307-v1:0", {"audio", "reasoning", "embeddings"}),
        ("claude-sonnet-4-5", {"audio", "embeddings"}),
        ("gpt-oss-120b", set()),
        ("qwen3:14b", set()),
        ("embedded-cat", set()),
        ("o1x", set()),
    ],
)
def test_a_family_takes_away_what_it_certainly_lacks(model: str, unable: set[str]) -> None:
    flags = merge(Capabilities(), [family_flags(model)]).as_dict()
    assert {name for name, flag in flags.items() if not flag} == unable


def test_no_family_adds_what_a_server_may_not_pass_on() -> None:
    for model in ("gpt-4o", "claude-opus-4", "text-embedding-3-small"):
        assert not any(family_flags(model).values())


def test_facts_merge_kind_family_listing_measurement_operator() -> None:
    asked = facts()

    def vision(listing: bool | None = None, **known: dict[str, bool]) -> bool:
        told = {"vision": listing} if listing is not None else None
        listings.remember(listed(asked, ModelInfo(id="gpt-3.5-turbo", capabilities=told)))
        target = Target(asked, "gpt-3.5-turbo", DeploymentFacts(**known))  # type: ignore[arg-type]
        return capabilities_of(target).vision

    assert capabilities_of(Target(asked, "anything")).vision
    assert not vision()
    assert vision(True)
    assert not vision(True, measured={"vision": False})
    assert vision(True, measured={"vision": False}, capabilities={"vision": True})


def test_a_kind_without_adapter_can_do_nothing() -> None:
    flags = capabilities_of(Target(facts(kind="smoke-signals"), "m")).as_dict()
    assert flags == dict.fromkeys(CAPABILITY_NAMES, False)


def test_a_listing_of_the_provider_under_another_address_tells_nothing() -> None:
    asked = facts()
    listings.remember(listed(asked, ModelInfo(id="m", capabilities={"tools": False})))
    assert not capabilities_of(Target(asked, "m")).tools
    moved = replace(asked, base_url="http://127.0.0.1:10")
    assert capabilities_of(Target(moved, "m")).tools
