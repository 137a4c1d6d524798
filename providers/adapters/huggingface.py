"""Models from the Hugging Face hub: GGUF files and transformers' folders computed here by the
runner, or a remote router, TGI or `transformers serve` by its address."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.local import LocalAdapter
from providers.capabilities import Capabilities
from providers.runner.catalogue import LocalKind


class HuggingFaceAdapter(LocalAdapter):
    kind: ClassVar[str] = "huggingface"
    local_kind: ClassVar[LocalKind] = "huggingface"
    defaults: ClassVar[Capabilities] = Capabilities(
        vision=False,
        audio=False,
        reasoning=False,
    )
