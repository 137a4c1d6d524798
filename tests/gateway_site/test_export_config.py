"""export_config writes a file that makes the same configuration again, without its secrets."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from django.core.management import CommandError

from keys.models import VirtualKey, digest
from providers.models import ConfigRevision, Deployment, Price, Provider, Route
from tests.gateway_site.commands import SAMPLE, finish, run, start

pytestmark = pytest.mark.django_db

RICH = """
providers:
  - {name: a.b, kind: fake, api_key: sk-canary-1, options: {z: [1, 2.5, null], a: {"on": "off"}}}
  - {name: A-B, kind: openai-compatible, base_url: "https://example.test/v1", api_key: sk-canary-2,
     timeouts: {connect: 0.5, total: 900}, max_retries: 0, enabled: false,
     breaker: {failures: 3, open_s: 7.5}}
  - {name: ref, kind: anthropic, api_key_env: TEAM_KEY, base_url_env: TEAM_URL, timeout_s: 30}
deployments:
  - {provider: ref, model: org/m:1, enabled: false, prices: [
     {valid_from: "2026-01-01T00:00:00Z", input: 0.000001, output: "12345678.123456"},
     {valid_from: 2026-02-01, input: 1, output: 2, cached_input: 0, cache_write: 0.5}]}
  - {provider: a.b, model: echo, price: {input: 0.1, output: 1e-6},
     capabilities: {vision: true, tools: false}, context_window: 8192, breaker: {rate: 0.25}}
routes:
  - {name: "yes", targets: [{provider: ref, model: org/m:1}, {provider: a.b, model: bare}]}
  - {name: empty, enabled: false, targets: []}
keys:
  - {name: ops, secret: "gw-canary-0123456789abcdef-1", admin: true, enabled: false,
     expires_at: "2030-01-31T12:00:00.5+01:00"}
  - {name: ci, secret: "gw-canary-0123456789abcdef-2", models: ["öffentlich/*"], rpm: 1, tpm: 2,
     max_parallel: 3, budget_usd: "0.10", budget_period: day}
  - {name: none, secret: "gw-canary-0123456789abcdef-3", models: [], budget_usd: 0}
"""


def export(tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "exported.yaml"
    run("export_config", str(path))
    return path.read_text(encoding="utf-8"), path


@pytest.fixture
def configured(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SAMPLE, encoding="utf-8")
    run("apply_config", str(path))
    path.write_text(RICH, encoding="utf-8")
    run("apply_config", str(path))


def forget_everything() -> None:
    for table in (VirtualKey, Route, Price, Deployment, Provider):
        table._default_manager.all().delete()


def test_an_export_names_what_is_not_default_in_a_fixed_order(configured: None) -> None:
    exported = yaml.safe_load(run("export_config").out)
    names = [entry["name"] for entry in exported["providers"]]
    assert names == sorted(names)
    credential = exported["providers"][0].pop("api_key_env")
    assert credential.startswith("ABSTRACTCORE_PROVIDER_A_B_")
    assert exported["providers"][0] == {
        "name": "A-B",
        "kind": "openai-compatible",
        "enabled": False,
        "base_url": "https://example.test/v1",
        "timeouts": {"connect": 0.5, "total": 900},
        "max_retries": 0,
        "breaker": {"failures": 3, "open_s": 7.5},
    }
    assert exported["deployments"][0] == {
        "provider": "a.b",
        "model": "bare",
    }
    assert exported["routes"][0] == {"name": "empty", "enabled": False, "targets": []}
    assert exported["keys"][-1] == {
        "name": "ops",
        "secret_env": "ABSTRACTCORE_KEY_OPS_SECRET",
        "enabled": False,
        "admin": True,
        "expires_at": "2030-01-31T11:00:00.500000Z",
    }


def test_the_same_database_finds_nothing_to_change_in_it(configured: None, tmp_path: Path) -> None:
    text, path = export(tmp_path)
    assert run("apply_config", str(path), "--prune").out == "no changes\n"
    assert export(tmp_path)[0] == text


def test_an_empty_database_becomes_equal(
    configured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, path = export(tmp_path)
    credentials = {row.name: row.reveal_api_key() for row in Provider.objects.all()}
    digests = dict(VirtualKey.objects.values_list("name", "secret_sha256"))
    entries = yaml.safe_load(text)
    for entry in entries["providers"]:
        if credentials[entry["name"]]:
            monkeypatch.setenv(entry["api_key_env"], credentials[entry["name"]])
    known = {digest(line.split('"')[1]): line.split('"')[1] for line in secret_lines()}
    for entry in entries["keys"]:
        monkeypatch.setenv(entry["secret_env"], known[digests[entry["name"]]])
    forget_everything()
    run("apply_config", str(path))
    assert export(tmp_path)[0] == text
    assert {row.name: row.reveal_api_key() for row in Provider.objects.all()} == credentials
    assert dict(VirtualKey.objects.values_list("name", "secret_sha256")) == digests


def secret_lines() -> list[str]:
    texts = (SAMPLE + RICH).split("secret: ")[1:]
    return [text.partition(",")[0] for text in texts]


def test_no_secret_and_no_digest_is_in_it(configured: None) -> None:
    printed = run("export_config")
    hidden = ["canary", "sk-test", "sk-ant-test", "gw-test"]
    hidden += VirtualKey.objects.values_list("secret_sha256", flat=True)
    hidden += Provider.objects.exclude(api_key="").values_list("api_key", flat=True)
    assert len(hidden) == 4 + 3 + 4
    assert not [secret for secret in hidden if secret in printed.out + printed.err]


def test_the_first_lines_name_the_variables_to_set(configured: None) -> None:
    out = run("export_config").out
    header = [
        line.strip("# ") for line in out.splitlines() if line.startswith("#     ABSTRACTCORE")
    ]
    entries = yaml.safe_load(out)
    references = [
        entry["api_key_env"]
        for entry in entries["providers"]
        if entry.get("api_key_env", "").startswith("ABSTRACTCORE_")
    ]
    assert len(references) == 4
    assert header == references + [entry["secret_env"] for entry in entries["keys"]]
    assert len(set(header)) == len(header)


def test_prices_keep_every_digit(configured: None) -> None:
    assert "12345678.123456" in run("export_config").out
    assert Price.objects.get(output=Decimal("0.000001")).input == Decimal("0.1")


def test_a_credential_set_anew_replaces_the_stored_one(
    configured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = export(tmp_path)
    variable = "ABSTRACTCORE_PROVIDER_OPENAI_API_KEY"
    monkeypatch.setenv(variable, "sk-test")
    assert run("apply_config", str(path)).out == "no changes\n"
    monkeypatch.setenv(variable, "sk-new")
    printed = run("apply_config", str(path)).out
    assert printed == f"~ provider openai: api_key_env none -> {variable}; api_key removed\n"
    openai = Provider.objects.get(name="openai")
    assert (openai.reveal_api_key(), openai.api_key) == ("sk-new", "")


def test_a_credential_of_a_lost_secret_key_does_not_stop_an_export(configured: None) -> None:
    Provider.objects.filter(name="openai").update(api_key="unreadable")
    assert "ABSTRACTCORE_PROVIDER_OPENAI_API_KEY" in run("export_config").out


def test_exporting_changes_nothing(configured: None) -> None:
    before = ConfigRevision.objects.get().revision
    run("export_config")
    assert ConfigRevision.objects.get().revision == before


def test_a_file_is_replaced_whole_and_a_device_is_written_to(tmp_path: Path) -> None:
    target = tmp_path / "target.yaml"
    target.write_text("old")
    (tmp_path / "link.yaml").symlink_to(target)
    run("export_config", str(tmp_path / "link.yaml"))
    assert target.read_text() == run("export_config", "-").out
    assert sorted(os.listdir(tmp_path)) == ["link.yaml", "target.yaml"]
    run("export_config", os.devnull)


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be written: No such file or directory"):
        run("export_config", str(tmp_path / "missing" / "config.yaml"))


def test_a_database_without_tables_gets_them(tmp_path: Path, spare_database_url: str) -> None:
    printed = finish(start(spare_database_url, tmp_path, "export_config"))
    assert printed.out == run("export_config").out
