"""What a model's tokens cost: an operator's dated prices first, then the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache, lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from chat.types import TokenCounts
from usage.fields import QUANTUM

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

MILLION = Decimal(1_000_000)
DECIMALS = 6
"""Of a unit price, as a record keeps it. A few catalogue prices have a float's tail beyond them."""

CATALOGUE_KINDS = {"openai": "openai", "anthropic": "anthropic"}
"""Kinds whose prices hold wherever the request is sent (a proxy, a regional address)."""

OWN_KINDS = frozenset({"huggingface", "mlx", "ollama", "lmstudio", "fake"})
"""Kinds that run on the operator's own machines, where a token costs nothing."""

HOSTED = (".huggingface.co", ".huggingface.cloud", ".hf.space", ".ollama.com")
"""Hosts that speak for one of OWN_KINDS and send bills."""

Override = tuple[datetime, Decimal, Decimal, Decimal | None, Decimal | None]
"""A dated price of the operator: valid from, input, output, cached input, cache write."""


class Tier(Struct, frozen=True, omit_defaults=True):
    """Prices of every token of a request whose prompt has more than `above` tokens."""

    above: int
    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None


class UnitPrices(Struct, frozen=True, omit_defaults=True):
    """USD per million tokens. `source` says where they come from: `override:2026-01-01`,
    `genai-prices:0.2.3/openai/gpt-4o-mini` or `local`. `tiers` rise with `above`."""

    source: str
    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    tiers: tuple[Tier, ...] = ()

    def for_prompt(self, tokens: int) -> UnitPrices:
        """The flat prices that hold for a prompt of so many tokens, cached ones included."""
        for tier in reversed(self.tiers):
            if tokens > tier.above:
                return UnitPrices(
                    source=f"{self.source}>{tier.above}",
                    input=tier.input,
                    output=tier.output,
                    cached_input=tier.cached_input,
                    cache_write=tier.cache_write,
                )
        return self


LOCAL = UnitPrices(source="local", input=Decimal(0), output=Decimal(0))


def cost(counts: TokenCounts, prices: UnitPrices) -> Decimal:
    """USD in whole pico-dollars. Cached and written tokens are parts of `counts.input` and are
    charged once (M21), at the input price where they have none of their own."""
    flat = prices.for_prompt(counts.input)
    cached = flat.input if flat.cached_input is None else flat.cached_input
    write = flat.input if flat.cache_write is None else flat.cache_write
    plain = max(counts.input - counts.cached - counts.cache_write, 0)
    total = (
        plain * flat.input
        + counts.cached * cached
        + counts.cache_write * write
        + counts.output * flat.output
    )
    return max(total / MILLION, Decimal(0)).quantize(QUANTUM, ROUND_HALF_EVEN)


def unit_prices(
    overrides: Iterable[Override], *, kind: str, base_url: str, model: str, at: datetime
) -> UnitPrices | None:
    """The prices in force at `at`: the operator's newest by then, else `catalogue_prices`.

    Blocks for some 0.5 s at a process's first look into the catalogue; see `load_catalogue`.
    """
    past = [row for row in overrides if row[0] <= at]
    if past:
        return _override(max(past, key=itemgetter(0)))
    # Prices that follow the hour of the day change on the half hour; the cache asks again by then.
    return catalogue_prices(kind, model, base_url=base_url, quarter_hour=int(at.timestamp()) // 900)


@lru_cache(maxsize=1024)
def _override(row: Override) -> UnitPrices:
    valid_from, input_, output, cached, write = row
    return UnitPrices(f"override:{valid_from:%Y-%m-%d}", input_, output, cached, write)


@lru_cache(maxsize=2048)
def catalogue_prices(
    kind: str, model: str, *, base_url: str, quarter_hour: int
) -> UnitPrices | None:
    """What genai-prices knows of a model; None where it knows nothing.

    `quarter_hour` counts quarters of an hour since 1970. The seller is the one whose address
    `base_url` is, else the kind's own. Of the catalogue's prices, text tokens are used: fees per
    search or request, audio and image tokens, and cache writes kept for an hour are not. Models
    of OWN_KINDS cost nothing unless a host that sells them answers.
    """
    if kind in OWN_KINDS and not _is_hosted(base_url):
        return LOCAL
    seller = _seller(base_url)
    if seller is None and kind in CATALOGUE_KINDS:
        seller = _providers()[CATALOGUE_KINDS[kind]]
    if seller is None:
        return None
    found = seller.find_model(model, all_providers=list(_providers().values()))
    return _flatten(seller, found, quarter_hour) if found else None


def load_catalogue() -> None:
    """Imports the catalogue: some 0.5 s and 20 MB, once. For a thread, before the first request."""
    _providers()


@cache
def _providers() -> dict[str, Provider]:
    # Here, because of what the docstring above says. Its own look-up function is not used: that
    # remembers every model name it was ever asked for.
    from genai_prices.data import providers

    return {provider.id: provider for provider in providers}


@lru_cache(maxsize=256)
def _seller(base_url: str) -> Provider | None:
    if not base_url.startswith("https://"):
        return None  # nobody sells without TLS: an own server's address must not load the catalogue
    return next((p for p in _providers().values() if re.match(p.api_pattern, base_url)), None)


def _is_hosted(base_url: str) -> bool:
    return f".{urlsplit(base_url).hostname or ''}".endswith(HOSTED)


def _flatten(seller: Provider, model: ModelInfo, quarter_hour: int) -> UnitPrices | None:
    from genai_prices import __version__

    prices = model.get_prices(datetime.fromtimestamp(quarter_hour * 900, UTC))
    base = _text_prices(prices, 0)
    if base is None:
        return None
    starts = sorted({start for name in _KEYS for start in _starts(prices, name)})
    tiers = [(start, _text_prices(prices, start + 1)) for start in starts]
    return UnitPrices(
        f"genai-prices:{__version__}/{seller.id}/{model.id}",
        *base,
        tiers=tuple(Tier(start, *tier) for start, tier in tiers if tier),
    )


_KEYS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
_Four = tuple[Decimal, Decimal, Decimal | None, Decimal | None]


def _text_prices(prices: ModelPrice, tokens: int) -> _Four | None:
    """Input, output, cached input and cache write for a prompt of so many tokens. A model without
    an output price puts out no tokens (embeddings); one without an input price is not ours to
    guess."""
    input_, output, cached, write = (_price(prices, name, tokens) for name in _KEYS)
    return None if input_ is None else (input_, output or Decimal(0), cached, write)


def _price(prices: ModelPrice, name: str, tokens: int) -> Decimal | None:
    price: Decimal | TieredPrices | None = getattr(prices, name)
    if price is None or isinstance(price, Decimal):
        return price if price is None else _rounded(price)
    chosen = [price.base, *(tier.price for tier in price.tiers if tokens > tier.start)]
    return _rounded(chosen[-1])


def _rounded(price: Decimal) -> Decimal:
    fine = round(price, DECIMALS)
    return price if fine == price else fine


def _starts(prices: ModelPrice, name: str) -> list[int]:
    price = getattr(prices, name)
    return [tier.start for tier in getattr(price, "tiers", ())]
