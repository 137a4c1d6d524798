"""What Claude models take, by generation: facts as data, so that no code asks for a model's name.

Sources: Anthropic's model, thinking, effort and structured-output pages and its SDK (2.12.0); what
pydantic-ai measured per model (its `profiles/anthropic.py`, 2026-11); recorded traffic (Opus 4.6
refuses the effort `xhigh` and names its levels). A provider row overrides what is wrong for a model
of its own: `options: {"models": {"my-claude": {"sampling": true, "max_tokens": 8192}}}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from chat.errors import UpstreamFailed
from providers.capabilities import Capabilities

_VERSION = re.compile(r"claude\D*?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_NEWEST = (99, 0)
_ALWAYS_THINKS = re.compile(r"claude-(?:fable|mythos)|claude-opus-5-5")
_THINKS_BETWEEN_TOOLS = re.compile(r"claude-sonnet-5-5")
_CANNOT_BE_FORCED = re.compile(r"claude-(?:fable|mythos)-5-[12]|claude-(?:opus|sonnet)-5-5")

Thinking = Literal["adaptive", "budget", "none"]


class ModelFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The defaults are for a model behind Anthropic's wire that is no Claude."""

    max_tokens: int = 8192
    """What is sent where the caller set no limit: the field is required upstream."""
    thinking: Thinking = "budget"
    """How thinking is asked for: by effort, by a token budget, or not at all."""
    thinking_off: str | None = "disabled"
    """The `thinking.type` that turns it off; None where nothing does."""
    efforts: tuple[str, ...] = ()
    """Levels of `output_config.effort`, weakest first."""
    sampling: bool = True
    """Takes `temperature`, `top_p` and `top_k`; newer models answer 400 to any of them."""
    temperature_with_top_p: bool = True
    structured_output: bool = True
    """Takes `output_config.format` and strict tools."""
    forced_tools: bool = True
    """Takes a `tool_choice` of `any` or `tool`; some newest models answer 400 to either."""

    def limited_by(self, flags: Capabilities) -> ModelFacts:
        """These facts without what the deployment's flags deny."""
        return msgspec.structs.replace(
            self,
            thinking=self.thinking if flags.reasoning else "none",
            efforts=self.efforts if flags.reasoning else (),
            structured_output=self.structured_output and flags.structured_output,
            forced_tools=self.forced_tools and flags.tool_choice,
        )


def facts_of(model: str, options: Mapping[str, Any]) -> ModelFacts:
    """The facts of a model, with the provider row's own put over them. Raises UpstreamFailed for
    options that are no facts."""
    facts = _claude(model.lower()) if "claude" in model.lower() else ModelFacts()
    models = options.get("models")
    own = models.get(model) if isinstance(models, Mapping) else None
    if not own:
        return facts
    try:
        return msgspec.convert({**msgspec.structs.asdict(facts), **own}, ModelFacts)
    except (msgspec.ValidationError, TypeError) as error:
        raise UpstreamFailed(f"The provider's options for this model are wrong: {error}.") from None


def _claude(model: str) -> ModelFacts:
    version = _version(model)
    return ModelFacts(
        max_tokens=_max_tokens(version),
        thinking=_thinking(version),
        thinking_off=_thinking_off(model),
        efforts=_efforts(version),
        sampling=version < (4, 7),
        temperature_with_top_p=version < (4, 1),
        structured_output=version >= (4, 1),
        forced_tools=not _CANNOT_BE_FORCED.search(model),
    )


def _version(model: str) -> tuple[int, int]:
    """`claude-3-5-haiku-latest` is (3, 5), `claude-opus-4-20250514` (4, 0); a Claude without a
    number is newer than this table."""
    found = _VERSION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def _max_tokens(version: tuple[int, int]) -> int:
    """The model's maximum; less for 3.7 to 4.1, which refuse a request whose input and
    `max_tokens` together pass the window."""
    if version < (3, 5):
        return 4096
    if version < (3, 7):
        return 8192
    if version < (4, 5):
        return 16_384
    return 64_000 if version < (4, 6) else 128_000


def _thinking(version: tuple[int, int]) -> Thinking:
    if version < (3, 7):
        return "none"
    return "budget" if version < (4, 6) else "adaptive"


def _thinking_off(model: str) -> str | None:
    if _ALWAYS_THINKS.search(model):
        return None
    return "between_tools" if _THINKS_BETWEEN_TOOLS.search(model) else "disabled"


def _efforts(version: tuple[int, int]) -> tuple[str, ...]:
    if version < (4, 6):
        return ()
    if version < (4, 7):
        return ("low", "medium", "high", "max")
    return ("low", "medium", "high", "xhigh", "max")
