"""A folder of safetensors, computed by mlx-lm: on Apple GPUs, and on the CPU elsewhere."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

from providers.runner.catalogue import LocalModel
from providers.runner.serving.engine import PROMPT_PART, PROMPT_PART_ON_CPU, Decoding
from providers.runner.serving.errors import Refusal
from providers.runner.weights import StartFailedError


class MLXEngine:
    """Asks mlx-lm's models one step at a time. Its own `generate_step` computes one token ahead,
    which does not go together with choosing each token outside of MLX's graph."""

    def __init__(self, model: LocalModel) -> None:
        """Raises StartFailedError, MemoryError, OSError and what mlx-lm raises."""
        self._mx = importlib.import_module("mlx.core")
        self._cache = importlib.import_module("mlx_lm.models.cache")
        self._generate = importlib.import_module("mlx_lm.generate")
        utils = importlib.import_module("mlx_lm.utils")
        on_gpu = self._mx.default_device().type == self._mx.DeviceType.gpu
        self._part = PROMPT_PART if on_gpu else PROMPT_PART_ON_CPU
        config = json.loads((model.path / "config.json").read_bytes())
        _require_known(model, config, utils)
        self._model, _ = utils.load_model(
            model.path, model_config=_rope_at_the_top(config), trust_remote_code=False
        )

    def generate(self, prompt: Sequence[int], decoding: Decoding, *, most: int) -> None:
        mx, stream = self._mx, self._generate.generation_stream
        with mx.stream(stream), self._generate.wired_limit(self._model, [stream]):
            cache = self._cache.make_prompt_cache(self._model)
            tokens = mx.array(list(prompt))
            while len(tokens) > 1:
                decoding.check()
                size = min(self._part, len(tokens) - 1)
                self._model(tokens[None, :size], cache=cache)
                mx.eval([each.state for each in cache])
                mx.clear_cache()
                tokens = tokens[size:]
            decoding.check()
            token: int | None = int(tokens[0])
            while token is not None:
                logits = self._model(mx.array([[token]]), cache=cache)[0, -1]
                token = decoding.next_token(_as_numpy(logits.astype(mx.float32)))

    def embed(self, tokens: Sequence[int]) -> list[float]:
        mx = self._mx
        # What mlx-lm's models call their layers below the head; there is no common name for it.
        layers = getattr(self._model, "model", None)
        if layers is None:
            raise Refusal("This model cannot embed through mlx-lm.", status=501, param="model")
        with mx.stream(self._generate.generation_stream):
            states = layers(mx.array([list(tokens)]))[0].astype(mx.float32)
            vector: list[float] = states.mean(axis=0).tolist()
        return vector


def _as_numpy(array: Any) -> Any:
    return importlib.import_module("numpy").array(array)


def _require_known(model: LocalModel, config: dict[str, Any], utils: Any) -> None:
    if config.get("model_file"):
        raise StartFailedError(
            "not_loadable",
            f"{model.name} needs code of its own to be loaded, and code from a model's folder is "
            "not run.",
        )
    kind = config.get("model_type")
    try:
        if not isinstance(kind, str) or not kind.replace("-", "_").isidentifier():
            raise ValueError("no name of a module")
        utils._get_classes(config)
    except ValueError:
        version = importlib.import_module("mlx_lm").__version__
        raise StartFailedError(
            "not_loadable",
            f"mlx-lm {version} does not know the architecture {kind!r}, which {model.name} has.",
        ) from None


def _rope_at_the_top(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers 5 writes as `rope_parameters` and most of mlx-lm's models look for at the
    top level: without it they take a base of 10,000 and answer nonsense (measured with SmolLM2,
    whose base is 100,000; mlx-lm 0.32.2, 2026-11-25)."""
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict) or "rope_theta" not in parameters:
        return {}
    found = {"rope_theta": parameters["rope_theta"]}
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    if scaling.get("rope_type", "default") != "default":
        found["rope_scaling"] = scaling
    return {name: value for name, value in found.items() if config.get(name) is None}
