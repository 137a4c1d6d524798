"""A GGUF model behind llama.cpp's own HTTP server, inside this process.

Figures: SmolLM2-135M Q4_1 on two shared cores, xllamacpp 2026.10.11549, 2026-11-23.
"""

from __future__ import annotations

import importlib
from typing import Any

from providers.runner.catalogue import LocalModel
from providers.runner.weights import StartFailedError

_HTTP_THREADS = 256
"""Each request, waiting ones too, and each idle connection holds one. With the default of six, 40
requests starved even the health check; 256 cost 2 MB."""

_SLEEP_AFTER_S = 600
"""Idle seconds after which the weights are let go (345 -> 65 MB resident); the next request waits
0.6 s longer while they are loaded again."""

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
        raise StartFailedError(
            "not_loadable",
            f"llama.cpp cannot load the weights file of {model.id} ({model.path.name}); the "
            "runner's log says why.",
        ) from error
    return server, int(server.listening_address.rpartition(":")[2])


def _parameters(llama: Any, model: LocalModel, *, key: str) -> Any:
    parameters = llama.CommonParams()
    parameters.model.path = str(model.path)
    parameters.model_alias = {model.id}
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
    parameters.n_predict = model.default_max_tokens
    if model.default_temperature is not None:
        parameters.sampling.temp = model.default_temperature
    parameters.cpuparams.n_threads = 1  # two are slower where others use the cores too
    parameters.cpuparams_batch.n_threads = 1
    parameters.n_gpu_layers = 0
    parameters.fit_params = False  # would change the context to fill the machine's memory
    parameters.cache_ram_mib = 0  # 8 GB of old prompts by default
    parameters.sleep_idle_seconds = _SLEEP_AFTER_S


def _set_surface(parameters: Any, *, key: str) -> None:
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.n_threads_http = _HTTP_THREADS
    parameters.verbosity = _ERRORS_ONLY
    parameters.ui = False
    parameters.endpoint_slots = False  # shows prompts
    parameters.offline = True
