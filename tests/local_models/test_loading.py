"""Models that cannot be served, and what is told of them: real loading, broken folders."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat.errors import UpstreamError, UpstreamFailed, UpstreamOverloaded, UpstreamRejected
from providers.adapters.base import Endpoint
from providers.http import HttpClient
from providers.runner.supervisor import release_all
from tests.local_models.conversion import converted_model
from tests.local_models.local import (
    ADAPTERS,
    CAPITAL,
    chat,
    client,
    require,
    text_of,
)

pytestmark = pytest.mark.once


@pytest.fixture(params=["transformers", "mlx"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    require(request.param)
    yield request.param
    release_all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model's folder to be broken: its files but the weights copied, those linked."""
    source = converted_model()
    broken = tmp_path / "models" / "broken"
    broken.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            (broken / file.name).symlink_to(file)
        else:
            shutil.copy(file, broken)
    return broken


async def test_an_architecture_nobody_knows_is_told_by_name(engine: str, folder: Path) -> None:
    change(folder / "config.json", model_type="hypernet9000", architectures=["Hyper9000"])
    told = await refusal(engine, folder)
    assert isinstance(told, UpstreamFailed) and not told.retryable
    assert "does not know" in told.message or "no text-generating model" in told.message
    assert "'hypernet9000'" in told.message


async def test_a_model_that_brings_code_is_refused_and_its_code_not_run(
    engine: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'OWNED')!r}, 'w')\nclass Model: pass\n")
    change(
        folder / "config.json",
        model_type="evil",
        model_file="evil.py",
        auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Model"},
    )
    told = await refusal(engine, folder)
    assert "code" in told.message
    assert not (tmp_path / "OWNED").exists()


async def test_a_missing_shard_is_told_by_name(engine: str, folder: Path) -> None:
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    told = await refusal(engine, folder)
    assert "model-00001-of-00002.safetensors of broken is missing" in told.message


async def test_a_missing_tokenizer_is_told(engine: str, folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "has no tokenizer" in (await refusal(engine, folder)).message


async def test_damaged_weights_are_told_without_their_folder(engine: str, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00garbage")
    told = await refusal(engine, folder)
    assert "cannot load broken" in told.message
    assert str(folder) not in told.message


async def test_a_folder_that_is_gone_is_told(engine: str, tmp_path: Path) -> None:
    told = await refusal(engine, tmp_path / "models" / "gone")
    assert "folder of broken (gone) is missing" in told.message


async def test_too_little_memory_is_told_with_both_figures(
    engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    with weights.open("wb") as file:
        file.truncate(10**13)  # takes no room on the disk
    told = await refusal(engine, folder)
    assert isinstance(told, UpstreamOverloaded)
    assert "not enough memory for broken: it needs 1100" in told.message


async def test_a_missing_package_is_told_with_the_extra_that_brings_it(
    engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = {"transformers": "torch", "mlx": "mlx_lm"}[engine]
    monkeypatch.setitem(sys.modules, package, None)
    told = await refusal(engine, folder)
    assert f"The package {package} is not installed" in told.message
    assert f"[{engine}]" in told.message


async def test_wrong_options_are_told_by_name(engine: str, folder: Path) -> None:
    told = await refusal(engine, folder, idle_s="long")
    assert "idle_s" in told.message


async def test_a_model_with_a_hostile_chat_template_is_not_served(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("transformers")
    monkeypatch.chdir(tmp_path)
    (folder / "chat_template.jinja").write_text(
        "{{ cycler.__init__.__globals__.os.popen('touch OWNED').read() }}"
    )
    told = await refusal("transformers", folder)
    assert "chat template" in told.message
    assert not (tmp_path / "OWNED").exists()
    release_all()


async def test_a_template_that_refuses_some_messages_is_served(folder: Path) -> None:
    require("transformers")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + template
    )
    http = client()
    adapter = adapter_for("transformers", folder, http)
    try:
        reply = await adapter.complete(chat(CAPITAL, temperature=0, max_tokens=12))
        assert "Paris" in text_of(reply.body)
        with pytest.raises(UpstreamRejected, match="System role not supported") as told:
            await adapter.complete(chat([{"role": "system", "content": "Be kind."}, *CAPITAL]))
        assert (told.value.http_status, told.value.param) == (400, "messages")
    finally:
        await http.aclose()
        release_all()


async def test_rope_parameters_as_transformers_writes_them_are_understood_by_mlx(
    folder: Path,
) -> None:
    require("mlx")
    config = json.loads((folder / "config.json").read_text())
    base = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_theta": base, "rope_type": "default"}
    (folder / "config.json").write_text(json.dumps(config))
    http = client()
    try:
        adapter = adapter_for("mlx", folder, http)
        reply = await adapter.complete(chat(CAPITAL, temperature=0, max_tokens=12))
        assert "Paris" in text_of(reply.body)
    finally:
        await http.aclose()
        release_all()


def adapter_for(engine: str, folder: Path, http: HttpClient, **options: Any) -> Any:
    data_dir = folder.parent.parent / "data"
    return ADAPTERS[engine](
        Endpoint(
            base_url="",
            api_key="",
            model="broken",
            options={"data_dir": str(data_dir), "models": {"broken": str(folder)}, **options},
        ),
        http,
    )


async def refusal(engine: str, folder: Path, **options: Any) -> UpstreamError:
    http = client()
    try:
        with pytest.raises(UpstreamError) as told:
            await adapter_for(engine, folder, http, **options).complete(chat(CAPITAL))
    finally:
        await http.aclose()
    return told.value


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
