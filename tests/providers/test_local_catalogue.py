"""Which local models there are: folders, files and options, with nothing that can be computed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from providers.runner.catalogue import LocalKind, LocalModel, local_models, read_options
from providers.runner.gguf import read_facts

pytestmark = pytest.mark.once


def names(folder: Path, kind: LocalKind = "huggingface", **options: Any) -> set[str]:
    return {model.name for model in found(folder, kind, **options)}


def found(folder: Path, kind: LocalKind = "huggingface", **options: Any) -> list[LocalModel]:
    told = read_options({"models_dir": str(folder), **options})
    embedded = {model.name for model in local_models(kind)}
    return [model for model in local_models(kind, told) if model.name not in embedded]


def add_folder(place: Path, *, weights: int = 1000, **config: Any) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    if weights:
        (place / "model.safetensors").write_bytes(bytes(weights))
    return place


def add_gguf(place: Path, *, context: int = 2048, template: str = "") -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    place.parent.mkdir(parents=True, exist_ok=True)
    fields = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.quantized") + struct.pack("<I", 7) + b"\x01",
        text("llama.context_length") + struct.pack("<II", 4, context),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template),
    ]
    place.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + b"".join(fields))
    return place


def test_folders_and_files_are_models_by_their_names(tmp_path: Path) -> None:
    add_folder(tmp_path / "tiny")
    add_folder(tmp_path / "maker" / "small")
    add_gguf(tmp_path / "quantised.gguf")
    add_gguf(tmp_path / "maker" / "other-Q4.gguf")
    assert names(tmp_path) == {"tiny", "maker/small", "quantised", "maker/other-Q4"}


def test_mlx_has_no_use_for_gguf_files(tmp_path: Path) -> None:
    add_folder(tmp_path / "tiny")
    add_gguf(tmp_path / "quantised.gguf")
    assert names(tmp_path, "mlx") == {"tiny"}


def test_what_mlx_quantised_is_for_mlx_only(tmp_path: Path) -> None:
    add_folder(tmp_path / "four-bit", quantization={"group_size": 64, "bits": 4})
    assert names(tmp_path, "mlx") == {"four-bit"}
    assert names(tmp_path) == set()


def test_what_is_no_model_is_passed_over(tmp_path: Path) -> None:
    add_folder(tmp_path / "no-weights", weights=0)
    add_folder(tmp_path / ".hidden")
    (tmp_path / "notes.txt").write_text("config.json")
    (tmp_path / "empty").mkdir()
    (add_folder(tmp_path / "broken") / "config.json").write_text("{torn")
    add_gguf(tmp_path / "mmproj-vision.gguf")
    assert names(tmp_path) == set()


def test_gguf_files_beside_a_config_are_models(tmp_path: Path) -> None:
    add_folder(tmp_path / "repository", weights=0)
    add_gguf(tmp_path / "repository" / "small-Q4.gguf")
    assert names(tmp_path) == {"repository/small-Q4"}


def test_a_gguf_in_parts_is_one_model(tmp_path: Path) -> None:
    for part in (1, 2):
        add_gguf(tmp_path / f"big-0000{part}-of-00002.gguf")
    [model] = found(tmp_path)
    assert (model.name, model.path.name) == ("big", "big-00001-of-00002.gguf")


def test_a_hubs_cache_is_a_folder_of_models(tmp_path: Path) -> None:
    repository = tmp_path / "models--maker--small"
    snapshot = add_folder(repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    [model] = found(tmp_path)
    assert (model.name, model.path) == ("maker/small", snapshot)


def test_a_hubs_cache_cannot_point_out_of_itself(tmp_path: Path) -> None:
    add_folder(tmp_path / "outside")
    repository = tmp_path / "hub" / "models--maker--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    (repository / "refs" / "main").write_text("../../../outside")
    assert names(tmp_path / "hub") == set()


def test_a_folder_that_does_not_exist_has_no_models(tmp_path: Path) -> None:
    assert names(tmp_path / "nowhere") == set()


def test_a_name_of_the_operators_names_a_place(tmp_path: Path) -> None:
    add_folder(tmp_path / "elsewhere" / "v3")
    told = names(tmp_path / "models", models={"mine": str(tmp_path / "elsewhere" / "v3")})
    assert told == {"mine"}


def test_what_an_operator_names_is_offered_even_where_it_is_missing(tmp_path: Path) -> None:
    assert names(tmp_path, models={"mine": str(tmp_path / "gone")}) == {"mine"}


@pytest.mark.parametrize("ending", ["", ".gguf"])
def test_a_place_with_an_impossible_name_is_only_told_when_it_is_started(
    tmp_path: Path, ending: str
) -> None:
    assert names(tmp_path, models={"mine": "x" * 5000 + ending}) == {"mine"}


def test_a_relative_place_is_found_by_a_child_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add_folder(tmp_path / "models" / "tiny")
    [model] = found(Path("models"))
    assert model.path == tmp_path / "models" / "tiny"


def test_the_context_is_the_models_up_to_a_bound(tmp_path: Path) -> None:
    add_folder(tmp_path / "short", max_position_embeddings=2048)
    add_folder(tmp_path / "long", text_config={"max_position_embeddings": 131072})
    add_gguf(tmp_path / "file.gguf", context=1024)
    assert {model.name: model.context for model in found(tmp_path)} == {
        "short": 2048,
        "long": 8192,
        "file": 1024,
    }
    assert {model.name: model.context for model in found(tmp_path, context=65536)}["long"] == 65536


def test_memory_is_asked_for_by_the_size_of_the_weights(tmp_path: Path) -> None:
    add_folder(tmp_path / "tiny", weights=1000)
    big = add_folder(tmp_path / "big", weights=1)
    with (big / "model-2.safetensors").open("wb") as file:
        file.truncate(10**10)
    sizes = {model.name: model.memory_bytes for model in found(tmp_path)}
    assert sizes["big"] - sizes["tiny"] == pytest.approx(1.1e10, rel=0.01)


def test_the_runners_files_of_two_models_with_one_name_are_not_the_same(tmp_path: Path) -> None:
    add_folder(tmp_path / "one" / "same")
    add_folder(tmp_path / "two" / "same")
    ids = {
        found(tmp_path / "one")[0].id,
        found(tmp_path / "two")[0].id,
        found(tmp_path / "one", "mlx")[0].id,
        found(tmp_path / "one", queue=5)[0].id,
    }
    assert len(ids) == 4


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b", "ü", "-", "x" * 300, "a/../b"])
def test_any_name_makes_a_file_name_that_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    [model] = found(tmp_path, models={name: str(tmp_path)})
    assert model.name == name
    assert "/" not in model.id and not model.id.startswith(".") and len(model.id) < 100


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"device": "cpu; rm"}, "device"),
        ({"queue": -1}, "queue"),
        ({"idle_s": 0}, "idle_s"),
        ({"context": 1}, "context"),
        ({"models": {"a": 5}}, "models"),
    ],
)
def test_a_wrong_option_is_told_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_options(options)


def test_the_head_of_a_gguf_file_tells_its_facts(tmp_path: Path) -> None:
    facts = read_facts(add_gguf(tmp_path / "x.gguf", context=4096))
    assert (facts.architecture, facts.context) == ("llama", 4096)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 40, b"MZ" * 50])
def test_a_file_that_is_no_gguf_has_no_facts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    facts = read_facts(path)
    assert (facts.architecture, facts.context) == (None, None)


@pytest.mark.parametrize(
    ("template", "knows"),
    [
        ("{% if tools %}{{ tools }}{% endif %}", True),
        ("{{ messages }} of toolsmiths", False),
        ("", False),
    ],
)
def test_a_gguf_file_knows_tools_when_its_template_does(
    tmp_path: Path, template: str, knows: bool
) -> None:
    add_gguf(tmp_path / "quantised.gguf", template=template)
    [model] = found(tmp_path)
    assert model.tools is knows


def test_a_gguf_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    place = add_gguf(tmp_path / "quantised.gguf")
    assert not read_facts(place).tools
    add_gguf(place, template="{{ tools }}")
    assert read_facts(place).tools
