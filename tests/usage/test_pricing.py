"""Prices: the operator's, the catalogue's, and what they make of token counts."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from chat.types import TokenCounts
from usage.pricing import Override, UnitPrices, cost, unit_prices

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
D = Decimal
ROUTER = "https://router.huggingface.co"


def prices_of(
    model: str, *, kind: str = "openai", base_url: str = "", overrides: tuple[Override, ...] = ()
) -> UnitPrices | None:
    return unit_prices(overrides, kind=kind, base_url=base_url, model=model, at=NOW)


def test_cached_and_written_tokens_are_charged_once() -> None:
    """M21"""
    prices = UnitPrices("x", D("3"), D("15"), D("0.3"), D("3.75"))
    counts = TokenCounts(input=1000, output=10, cached=600, cache_write=100)
    # 300 at 3, 600 at 0.3, 100 at 3.75 and 10 at 15, per million
    assert cost(counts, prices) == D("0.001605")


def test_cached_tokens_without_a_price_of_their_own_cost_the_input_price() -> None:
    counts = TokenCounts(input=1000, cached=600, cache_write=400)
    assert cost(counts, UnitPrices("x", D(2), D(0))) == D("0.002")


def test_a_price_of_six_decimals_makes_whole_pico_dollars() -> None:
    assert cost(TokenCounts(input=1), UnitPrices("x", D("0.000001"), D(0))) == D("1e-12")


@given(
    counts=st.builds(
        TokenCounts,
        input=st.integers(0, 10**9),
        output=st.integers(0, 10**9),
        cached=st.integers(0, 10**9),
        cache_write=st.integers(0, 10**9),
    )
)
def test_a_cost_is_never_negative_and_never_rounded(counts: TokenCounts) -> None:
    """M21"""
    prices = UnitPrices("x", D("0.000007"), D("1.5"), D("0.1"), D("2"))
    amount = cost(counts, prices)
    assert amount >= 0
    assert amount == round(amount, 12)


def test_the_newest_price_that_is_in_force_holds() -> None:
    dated: tuple[Override, ...] = (
        (NOW - timedelta(days=9), D(1), D(2), None, None),
        (NOW + timedelta(seconds=1), D(5), D(6), None, None),
        (NOW, D(3), D(4), D("0.5"), None),
    )
    prices = prices_of("gpt-4o-mini", overrides=dated)
    assert prices == UnitPrices("override:2026-11-23", D(3), D(4), D("0.5"))


def test_without_a_price_in_force_the_catalogue_is_asked() -> None:
    later: tuple[Override, ...] = ((NOW + timedelta(days=1), D(5), D(6), None, None),)
    assert prices_of("gpt-4o-mini", overrides=later) == prices_of("gpt-4o-mini")


def test_a_catalogue_price_says_which_catalogue_and_model_it_is_of() -> None:
    """M22"""
    prices = prices_of("gpt-4o-mini")
    assert prices is not None
    assert (prices.input, prices.output, prices.cached_input) == (D("0.15"), D("0.6"), D("0.075"))
    assert prices.source.startswith("genai-prices:")
    assert prices.source.endswith("/openai/gpt-4o-mini")


@pytest.mark.parametrize(
    ("kind", "provider", "base_url", "model"),
    [
        ("openai", "openai", "", "gpt-4o-2024-08-06"),
        ("openai", "openai", "http://127.0.0.1:9001/v1", "gpt-4o-mini"),
        ("anthropic", "anthropic", "", "claude-3-5-haiku-latest"),
        ("openai-compatible", "groq", "https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"),
        ("openai-compatible", "openrouter", "https://openrouter.ai/api/v1", "openai/gpt-4o-mini"),
        ("huggingface", "huggingface_groq", f"{ROUTER}/groq/openai/v1", "openai/gpt-oss-20b"),
    ],
)
@pytest.mark.parametrize("tokens", [(1000, 200, 500), (250_000, 9, 0)])
def test_a_cost_is_what_the_catalogue_itself_makes_of_it(
    kind: str, provider: str, base_url: str, model: str, tokens: tuple[int, int, int]
) -> None:
    prices = prices_of(model, kind=kind, base_url=base_url)
    assert prices is not None
    input_, output, cached = tokens
    reported = Usage(input_tokens=input_, output_tokens=output, cache_read_tokens=cached)
    oracle = calc_price(reported, model, provider_id=provider, genai_request_timestamp=NOW)
    counts = TokenCounts(input=input_, output=output, cached=cached)
    assert cost(counts, prices) == oracle.total_price


def test_a_long_prompt_costs_its_tier_for_every_token() -> None:
    prices = prices_of("claude-haiku-5-5", kind="anthropic")
    assert prices is not None
    (tier,) = prices.tiers
    at, above = (cost(TokenCounts(input=tier.above + n), prices) for n in (0, 1))
    assert at == tier.above * prices.input / 1_000_000
    assert above == (tier.above + 1) * tier.input / 1_000_000
    assert prices.for_prompt(tier.above + 1).source == f"{prices.source}>{tier.above}"


def test_a_price_that_follows_the_hour_is_the_hours() -> None:
    url = "https://api.deepseek.com"
    hours = {
        unit_prices(
            (), kind="openai-compatible", base_url=url, model="deepseek-chat", at=NOW + timedelta(h)
        )
        for h in (0.0, 0.25, 0.5, 0.75)
    }
    assert len(hours) == 2


@pytest.mark.parametrize(
    ("kind", "base_url"),
    [
        ("openai", ""),
        ("openai-compatible", "http://10.0.0.7:8000/v1"),
        ("openai-compatible", "https://llm.example.com/v1"),
        ("huggingface", f"{ROUTER}/v1"),
        ("ollama", "https://ollama.com"),
    ],
)
def test_what_nobody_knows_the_price_of_has_none(kind: str, base_url: str) -> None:
    """M22"""
    assert prices_of("a-model-of-our-own", kind=kind, base_url=base_url) is None


@pytest.mark.parametrize("kind", ["huggingface", "mlx", "ollama", "lmstudio", "fake"])
@pytest.mark.parametrize("base_url", ["", "http://gpu.example.com:11434"])
def test_a_model_on_ones_own_machine_costs_nothing(kind: str, base_url: str) -> None:
    prices = prices_of("llama3", kind=kind, base_url=base_url)
    assert prices is not None
    assert prices.source == "local"
    assert cost(TokenCounts(input=10**9, output=10**9), prices) == 0


@pytest.mark.once
def test_models_on_ones_own_machines_do_not_load_the_catalogue() -> None:
    script = (
        "import sys; from datetime import datetime, UTC; from usage.pricing import unit_prices\n"
        "for kind, url in [('ollama', 'http://127.0.0.1:11434'),"
        " ('openai-compatible', 'http://gpu:8000/v1')]:\n"
        "    unit_prices((), kind=kind, base_url=url, model='m', at=datetime.now(UTC))\n"
        "sys.exit('genai_prices.data' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 0
