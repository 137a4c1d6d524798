"""Loads a model that transformers or mlx-lm computes, and serves it on a free loopback port."""

from __future__ import annotations

import importlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, NoReturn

import uvicorn

from providers.runner.catalogue import LocalModel
from providers.runner.serving.app import LocalModelApp
from providers.runner.serving.engine import Engine
from providers.runner.serving.errors import Refusal
from providers.runner.serving.grammar import Grammars
from providers.runner.serving.sampling import Sampling
from providers.runner.serving.service import ModelFacts, Service
from providers.runner.serving.tokens import Prompts, open_tokenizer
from providers.runner.weights import StartFailedError

_TEMPLATE_TRIAL_S = 20.0
_ENGINES = {
    "transformers": "providers.runner.serving.transformers_engine:TransformersEngine",
    "mlx": "providers.runner.serving.mlx_engine:MLXEngine",
}


def open_server(model: LocalModel, *, key: str) -> tuple[int, Callable[[], float]]:
    """The port, and a function that says for how many seconds nobody has asked for anything.

    Raises StartFailedError and MemoryError.
    """
    # Before the libraries are imported, which read it then: no hub is ever asked.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _require_files(model)
    service = _load(model)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port: int = listener.getsockname()[1]
    _serve(LocalModelApp(service, key=key), listener)
    return port, service.turns.idle_for


def _load(model: LocalModel) -> Service:
    engine_thread = ThreadPoolExecutor(1, "engine")
    try:
        reading, tokenizer = open_tokenizer(model.path), open_tokenizer(model.path)
        prompts = Prompts(reading, context=model.context)
        _try_template(model, prompts)
        engine: Engine = engine_thread.submit(_open_engine, model).result()
    except (StartFailedError, MemoryError):
        raise
    except Exception as error:
        _fail(model, error)
    facts = _facts(model, tokenizer)
    return Service(
        facts,
        engine,
        prompts=prompts,
        grammars=Grammars(reading, ends=facts.ends),
        tokenizer=tokenizer,
        engine_thread=engine_thread,
        most_waiting=model.queue,
    )


def _open_engine(model: LocalModel) -> Engine:
    module, name = _ENGINES[model.engine].split(":")
    engine: Engine = getattr(importlib.import_module(module), name)(model)
    return engine


def _fail(model: LocalModel, error: Exception) -> NoReturn:
    """A library's failure in one line. Its own words are for the log: they name folders."""
    if "memory" in str(error).lower():
        raise MemoryError from error
    print(f"{type(error).__name__}: {error}", flush=True)
    raise StartFailedError(
        "not_loadable",
        f"{model.engine} cannot load {model.name} ({type(error).__name__}); the runner's log says "
        "why.",
    ) from error


def _require_files(model: LocalModel) -> None:
    config = model.path / "config.json"
    if not config.is_file():
        raise StartFailedError("not_loadable", f"{model.name} has no config.json.")
    _read(config, model)
    index = model.path / "model.safetensors.index.json"
    wanted = (
        set(_read(index, model).get("weight_map", {}).values())
        if index.is_file()
        else {"model.safetensors"}
    )
    for name in sorted(map(str, wanted)):
        if not (model.path / Path(name).name).is_file():
            raise StartFailedError("not_loadable", f"The file {name} of {model.name} is missing.")
    if not any(
        (model.path / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        raise StartFailedError("not_loadable", f"{model.name} has no tokenizer.")


def _read(path: Path, model: LocalModel) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise StartFailedError("not_loadable", f"{path.name} of {model.name} is not a JSON object.")
    return content


def _try_template(model: LocalModel, prompts: Prompts) -> None:
    """A template that breaks out, or never ends, must not be what the first caller meets. One that
    only dislikes the messages of this trial is fine."""
    trial = ThreadPoolExecutor(1, "template")
    messages = [{"role": "user", "content": "Hello"}]
    try:
        trial.submit(prompts.of_chat, messages).result(_TEMPLATE_TRIAL_S)
    except FutureTimeoutError:
        raise StartFailedError(
            "not_loadable", f"The chat template of {model.name} does not end."
        ) from None
    except Refusal as refusal:
        if refusal.code == "template_forbidden":
            raise StartFailedError(
                "not_loadable", f"{model.name} is not served. {refusal.message}"
            ) from None


def _facts(model: LocalModel, tokenizer: Any) -> ModelFacts:
    generation = model.path / "generation_config.json"
    chosen = _read(generation, model) if generation.is_file() else {}
    config = _read(model.path / "config.json", model)
    ends: set[int] = set()
    for value in (chosen.get("eos_token_id", config.get("eos_token_id")), tokenizer.eos_token_id):
        ends.update(value if isinstance(value, list) else () if value is None else (value,))
    return ModelFacts(
        name=model.name,
        context=model.context,
        ends=frozenset(ends),
        default_max_tokens=model.default_max_tokens,
        defaults=_own_sampling(model, chosen),
    )


def _own_sampling(model: LocalModel, chosen: dict[str, Any]) -> Sampling:
    """What the model's makers say it is best sampled with: greedily where they say nothing, as
    transformers does."""
    samples = chosen.get("do_sample") is True
    temperature = chosen.get("temperature") or 1.0
    if model.default_temperature is not None:
        temperature = model.default_temperature
    elif not samples:
        temperature = 0.0
    return Sampling(
        temperature=temperature,
        top_p=(chosen.get("top_p") or 1.0) if samples else 1.0,
        top_k=(chosen.get("top_k") or 0) if samples else 0,
        repetition_penalty=chosen.get("repetition_penalty") or 1.0,
    )


def _serve(app: LocalModelApp, listener: socket.socket) -> None:
    """In a thread, as the child's main thread watches over leases and signals."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True
    )
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise StartFailedError("not_loadable", "The runner's HTTP server did not start.")
        time.sleep(0.01)
