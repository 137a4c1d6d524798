"""What a model can do, as flags merged in a fixed order: kind defaults, then the deployment's own.

Facts about models live here and nowhere else; code asks the flag, never the provider's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace


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
        return asdict(self)


CAPABILITY_NAMES = tuple(field.name for field in fields(Capabilities))
