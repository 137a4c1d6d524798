"""What a model can do, as flags merged in a fixed order: kind defaults, model family, what the
provider's listing says, what was measured, the operator's own word.

Facts about models live here and nowhere else; code asks the flag, never the provider's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Capabilities:
    tools: bool = True
    parallel_tools: bool = True
    tool_choice: bool = True
    structured_output: bool = True
    json_mode: bool = True
    vision: bool = True
    audio: bool = True
    reasoning: bool = True
    streaming: bool = True
    streaming_usage: bool = True
    """Takes `stream_options.include_usage`."""
    system_role: bool = True
    embeddings: bool = True

    def with_overrides(self, overrides: Mapping[str, bool]) -> Capabilities:
        """These flags with some replaced. Raises TypeError for a flag that does not exist."""
        return replace(self, **overrides) if overrides else self

    def as_dict(self) -> dict[str, bool]:
        return {name: getattr(self, name) for name in CAPABILITY_NAMES}


CAPABILITY_NAMES = tuple(field.name for field in fields(Capabilities))

_NAMES = frozenset(CAPABILITY_NAMES)
_NO_CHAT = dict.fromkeys(_NAMES - {"embeddings"}, False)

_FAMILIES: tuple[tuple[re.Pattern[str], Mapping[str, bool]], ...] = tuple(
    (re.compile(pattern), flags)
    for pattern, flags in (
        # Models that put out vectors.
        (r"text-embedding|(^|[-_.])embed(ding|dings)?([-_.\d]|$)|^all-minilm|^bge-", _NO_CHAT),
        # Models of sound, pictures and verdicts, which speak no chat at all.
        (
            r"^(whisper|tts-|dall-e|gpt-image|sora|omni-moderation|text-moderation)"
            r"|^gpt-.*-(transcribe|tts)\b",
            _NO_CHAT | {"embeddings": False},
        ),
        # OpenAI's and Anthropic's chat models. Where they run as a service they embed nothing.
        (r"^(gpt-[345]|chatgpt-|o[134](-|$)|claude-)", {"embeddings": False}),
        (r"^gpt-3\.5", {"vision": False, "audio": False, "reasoning": False}),
        (r"^gpt-4([o.-]|$)", {"reasoning": False}),
        (r"^gpt-4(?!.*(audio|realtime))", {"audio": False}),
        (r"^claude-", {"audio": False}),
        (r"^claude-(2|instant|3-(5|opus|sonnet|haiku))", {"reasoning": False}),
    )
)
"""What the families of these names certainly cannot do: their makers' documentation, read
2026-11-25. A family only takes away, because the server in between may not pass on what a model
could do; and it is short, because a provider's listing, a measurement and the operator come after
it."""


@lru_cache(maxsize=4096)
def family_flags(model: str) -> Mapping[str, bool]:
    """What a model's name says for certain. Of `org/model` and `org.model-name` the last part
    counts, without regard to case."""
    name = model.lower().rpartition("/")[2]
    name = name.removeprefix("anthropic.").removeprefix("openai.")
    flags: dict[str, bool] = {}
    for pattern, family in _FAMILIES:
        if pattern.search(name):
            flags |= family
    return flags


def merge(defaults: Capabilities, layers: Iterable[Mapping[str, bool] | None]) -> Capabilities:
    """`defaults` with each layer's flags put over what came before. What is no flag of ours is
    passed over: listings and stored measurements come from other versions and other hands."""
    merged: dict[str, bool] = {}
    for layer in layers:
        if layer:
            merged.update(
                {
                    name: flag
                    for name, flag in layer.items()
                    if name in _NAMES and isinstance(flag, bool)
                }
            )
    return defaults.with_overrides(merged)
