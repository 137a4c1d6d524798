"""mlx-lm's models: computed here by the runner, or by a remote `mlx_lm.server` by its address."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.local import LocalAdapter
from providers.capabilities import Capabilities
from providers.runner.catalogue import LocalKind


class MLXAdapter(LocalAdapter):
    kind: ClassVar[str] = "mlx"
    local_kind: ClassVar[LocalKind] = "mlx"
    defaults: ClassVar[Capabilities] = Capabilities(
        tool_choice=False,
        structured_output=False,
        json_mode=False,
        vision=False,
        audio=False,
        reasoning=False,
    )
