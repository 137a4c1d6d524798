"""Models in folders: what is there, and what its files say of it without being loaded."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from providers.runner.gguf import read_facts

Engine = Literal["llama", "transformers", "mlx"]

_SPLIT = re.compile(r"-(\d{5})-of-\d{5}\Z")
_HUB = re.compile(r"models--([^/]+?)--([^/]+)\Z")
_WINDOWS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_MAX_CONFIG = 4 << 20


@dataclass(frozen=True, slots=True)
class FoundModel:
    path: Path
    engine: Engine
    context: int | None
    """Tokens it was made for, where it says so."""
    size: int
    """Bytes of its weights."""
    tools: bool = False
    """Whether its server tells it of tools and reads its calls."""


def find_models(folder: Path, *, kind: str) -> dict[str, FoundModel]:
    """The models below a folder by name: `model` or `maker/model`. A folder that does not exist or
    cannot be read has none."""
    found: dict[str, FoundModel] = {}
    for name, path in _candidates(folder):
        model = _recognise(path, kind=kind)
        if model is not None:
            found[name] = model
    return found


def model_at(path: Path, *, kind: str) -> FoundModel:
    """What an operator says is a model, whether or not it looks like one: what is wrong with it is
    told when it is started."""
    model = _recognise(path, kind=kind)
    if model is not None:
        return model
    engine: Engine = "mlx" if kind == "mlx" else "transformers"
    if path.suffix == ".gguf":
        engine = "llama"
    return FoundModel(path, engine, context=None, size=_weights_size(path))


def _candidates(folder: Path) -> Iterator[tuple[str, Path]]:
    for entry in _visible(folder):
        hub = _HUB.match(entry.name)
        if hub:
            snapshot = _snapshot(entry)
            if snapshot is not None:
                yield f"{hub[1]}/{hub[2]}", snapshot
            continue
        if _is_model(entry):
            yield _model_name(entry), entry
        for inner in _visible(entry):
            if _is_model(inner):
                yield f"{entry.name}/{_model_name(inner)}", inner


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if _is_name(each.name))
    except OSError:
        return []


def _is_name(name: str) -> bool:
    return not name.startswith(".") and name.isprintable()


def _is_model(path: Path) -> bool:
    if path.suffix == ".gguf":
        part = _SPLIT.search(path.stem)
        projector = path.name.startswith("mmproj")
        return _is_file(path) and not projector and (part is None or part[1] == "00001")
    return _is_file(path / "config.json")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # what may not be looked at, or has too long a name
        return False


def _model_name(path: Path) -> str:
    return _SPLIT.sub("", path.stem) if path.suffix == ".gguf" else path.name


def _snapshot(repository: Path) -> Path | None:
    """Where a hub's cache keeps the version last fetched."""
    try:
        revision = (repository / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = repository / "snapshots" / revision
    return snapshot if re.fullmatch(r"[0-9a-f]+", revision) and snapshot.is_dir() else None


def _recognise(path: Path, *, kind: str) -> FoundModel | None:
    if path.suffix == ".gguf":
        if kind == "mlx" or not _is_file(path):
            return None
        facts = read_facts(path)
        return FoundModel(path, "llama", facts.context, _weights_size(path), facts.tools)
    config = _config(path)
    size = _weights_size(path)
    # MLX's own quantisation, which transformers cannot read, has a field of its own.
    if config is None or not size or (kind != "mlx" and "quantization" in config):
        return None
    return FoundModel(path, "mlx" if kind == "mlx" else "transformers", _window(config), size)


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _window(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    for source in (config, inner if isinstance(inner, dict) else {}):
        for name in _WINDOWS:
            value = source.get(name)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _weights_size(path: Path) -> int:
    """Bytes of a file with the parts beside it, or of the safetensors in a folder; 0: none."""
    try:
        if path.is_dir():
            return sum(each.stat().st_size for each in path.glob("*.safetensors"))
        if not _SPLIT.search(path.stem):
            return path.stat().st_size
        whole = glob.escape(_SPLIT.sub("", path.stem))
        return sum(each.stat().st_size for each in path.parent.glob(f"{whole}-*-of-*.gguf"))
    except OSError:
        return 0
