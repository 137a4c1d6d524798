"""A folder of safetensors, computed by transformers and torch.

`generate` keeps the books of every architecture (caches, positions, masks) and is asked for the
most likely token only; which one that is, `Decoding` has decided before.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

from providers.runner.catalogue import LocalModel
from providers.runner.serving.engine import PROMPT_PART, PROMPT_PART_ON_CPU, Decoding
from providers.runner.weights import StartFailedError


class _Ended(Exception):
    """Raised through `generate` when the answer has ended."""


class TransformersEngine:
    def __init__(self, model: LocalModel) -> None:
        """Raises StartFailedError, MemoryError, OSError and what transformers raises."""
        self._torch = torch = importlib.import_module("torch")
        self._transformers = transformers = importlib.import_module("transformers")
        _require_known(model, transformers)
        torch.set_num_threads(model.threads)
        self._device = torch.device(_device(model, torch))
        self._part = PROMPT_PART_ON_CPU if self._device.type == "cpu" else PROMPT_PART
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            model.path,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,  # the other format runs what it likes while it is read
        ).to(self._device)
        self._model.eval()
        # What is set there would be done beside what the request asks for.
        self._model.generation_config = transformers.GenerationConfig()

    def generate(self, prompt: Sequence[int], decoding: Decoding, *, most: int) -> None:
        torch = self._torch

        def choose(_ids: Any, scores: Any) -> Any:
            token = decoding.next_token(scores[0].numpy(force=True))
            if token is None:
                raise _Ended
            scores.fill_(-float("inf"))
            scores[0, token] = 0.0
            return scores

        # Called before every part of the prompt, and before every token.
        watch = self._model.register_forward_pre_hook(lambda _module, _inputs: decoding.check())
        try:
            with torch.inference_mode():
                ids = torch.tensor([list(prompt)], device=self._device)
                self._model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=self._configuration(len(prompt), most),
                    logits_processor=self._transformers.LogitsProcessorList([choose]),
                )
        except _Ended:
            pass
        finally:
            watch.remove()

    def embed(self, tokens: Sequence[int]) -> list[float]:
        torch = self._torch
        with torch.inference_mode():
            ids = torch.tensor([list(tokens)], device=self._device)
            outputs = self._model.base_model(input_ids=ids, use_cache=False)
            vector: list[float] = outputs.last_hidden_state[0].float().mean(dim=0).tolist()
        return vector

    def _configuration(self, prompt: int, most: int) -> Any:
        return self._transformers.GenerationConfig(
            do_sample=False,
            max_new_tokens=most,
            eos_token_id=None,
            pad_token_id=0,
            prefill_chunk_size=self._part if prompt > self._part else None,
        )


def _require_known(model: LocalModel, transformers: Any) -> None:
    config = json.loads((model.path / "config.json").read_bytes())
    kind = config.get("model_type")
    if config.get("auto_map"):
        raise StartFailedError(
            "not_loadable",
            f"{model.name} needs code of its own to be loaded, and code from a model's folder is "
            "not run.",
        )
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in known:
        raise StartFailedError(
            "not_loadable",
            f"transformers {transformers.__version__} has no text-generating model of the "
            f"architecture {kind!r}, which {model.name} has.",
        )


def _device(model: LocalModel, torch: Any) -> str:
    usable = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not usable.get(model.device.partition(":")[0], False):
        raise StartFailedError(
            "not_loadable", f"{model.name} is to be computed on {model.device}, and there is none."
        )
    return model.device
