"""A GGUF model behind llama.cpp's own HTTP server, inside this process.

Figures: SmolLM2-135M Q4_1 on two shared cores, xllamacpp 2026.10.11549, 2026-11-23.
"""

from __future__ import annotations

import importlib
from typing import Any

from providers.runner.catalogue import LocalModel
from providers.runner.gguf import read_facts
from providers.runner.weights import StartFailedError

_HTTP_THREADS = 256
"""Each request, waiting ones too, and each idle connection holds one. With the default of six, 40
requests starved even the health check; 256 cost 2 MB."""

_ERRORS_ONLY = 1
"""From level 3 the log holds the last characters of the key; no level up to it holds prompts."""


def open_server(model: LocalModel, *, key: str) -> tuple[Any, int]:
    """Loads the model and serves it on a free loopback port: the server, to be kept, and the port.

    Holds the interpreter's lock while it loads. Raises StartFailedError.
    """
    llama = importlib.import_module("xllamacpp")
    try:
        server = llama.Server(_parameters(llama, model, key=key))
    except RuntimeError as error:  # says no more than that it failed; the log has the cause
        raise StartFailedError("not_loadable", _cause(model)) from error
    return server, int(server.listening_address.rpartition(":")[2])


def _cause(model: LocalModel) -> str:
    facts = read_facts(model.path)
    if facts.architecture is None:
        told = "it is no GGUF file, or a damaged one"
    else:
        told = (
            f"the runner's log says why (its architecture, {facts.architecture}, may be newer than "
            "this llama.cpp)"
        )
    return f"llama.cpp cannot load the weights file of {model.name} ({model.path.name}): {told}."


def _parameters(llama: Any, model: LocalModel, *, key: str) -> Any:
    parameters = llama.CommonParams()
    parameters.model.path = str(model.path)
    parameters.model_alias = {model.name}
    _set_limits(parameters, model)
    _set_surface(parameters, key=key)
    parameters.use_jinja = True
    parameters.chat_template = model.chat_template
    if model.embeddings:
        parameters.embedding = True
        parameters.pooling_type = llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return parameters


def _set_limits(parameters: Any, model: LocalModel) -> None:
    parameters.n_ctx = model.context * model.slots
    parameters.n_parallel = model.slots
    # With a cache for each slot a batch of texts is computed in parts of equal length, and the mean
    # of a longer text is that of its last part only: the same text, embedded beside a shorter one,
    # had a cosine of 0.86 with itself (2026-11-25). Of one for all each slot has its context.
    parameters.kv_unified = True
    parameters.kv_unified_per_slot = model.context
    parameters.n_predict = model.default_max_tokens
    if model.default_temperature is not None:
        parameters.sampling.temp = model.default_temperature
    parameters.cpuparams.n_threads = model.threads  # two are slower where others use the cores too
    parameters.cpuparams_batch.n_threads = model.threads
    parameters.n_gpu_layers = 0
    parameters.fit_params = False  # would change the context to fill the machine's memory
    parameters.cache_ram_mib = 0  # 8 GB of old prompts by default
    # The weights are let go (345 -> 65 MB resident); the next request waits 0.6 s longer while they
    # are loaded again.
    parameters.sleep_idle_seconds = max(int(model.idle_s), 1)


def _set_surface(parameters: Any, *, key: str) -> None:
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.n_threads_http = _HTTP_THREADS
    parameters.verbosity = _ERRORS_ONLY
    parameters.ui = False
    parameters.endpoint_slots = False  # shows prompts
    parameters.offline = True
