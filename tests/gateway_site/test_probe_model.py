"""probe_model asks a model what it can do; configuration files and migrations keep the answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError

from providers.models import Deployment, Provider
from tests.gateway_site.commands import finish, run, start
from tests.scripted_model import Model
from tests.upstream import Upstream, scripted_upstream, silence
from usage.models import UsageRecord


@pytest.fixture
def model() -> Model:
    return Model(vision=(400, {"error": {"message": "no pictures"}}))


@pytest.fixture
def upstream(model: Model) -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        upstream.script = model.play
        yield upstream


@pytest.fixture
def lab(db: None, upstream: Upstream) -> Provider:
    return Provider.objects.create(name="lab", kind="openai-compatible", base_url=upstream.base_url)


def measured() -> dict[str, bool]:
    flags: dict[str, bool] = Deployment.objects.get().measured_capabilities
    return flags


def test_it_prints_and_keeps_what_it_found(lab: Provider) -> None:
    printed = run("probe_model", "lab/org/m:1")
    assert "vision: no. Refused: no pictures\n" in printed.out
    assert 'tools: yes. It called get_weather with {"city": "Paris"}\n' in printed.out
    assert printed.err.startswith("10 requests, ")
    assert Deployment.objects.get().model == "org/m:1"
    assert (measured()["tools"], measured()["vision"]) == (True, False)
    assert {row.key for row in UsageRecord.objects.all()} == {"probe_model"}


def test_a_dry_run_asks_and_makes_nothing(lab: Provider, model: Model) -> None:
    printed = run("probe_model", "lab/m", "--dry-run")
    assert printed.out.startswith("lab/m would be asked up to 22 times within 180 s: ")
    assert model.bodies == []
    assert not Deployment.objects.exists()


def test_what_was_not_asked_is_a_failure_of_the_command(lab: Provider, model: Model) -> None:
    model.says = {"tools": (503, {"error": {"message": "busy"}})}
    with pytest.raises(CommandError, match=r"Not everything was asked\. At tools: busy"):
        run("probe_model", "lab/m")
    assert measured()["streaming"] is True


def test_a_model_nobody_answers_for_is_not_made_a_deployment(lab: Provider, model: Model) -> None:
    model.says = {"plain": (503, {"error": {"message": "down"}})}
    with pytest.raises(CommandError, match="down"):
        run("probe_model", "lab/m")
    assert not Deployment.objects.exists()


@pytest.mark.parametrize("name", ["lab", "nobody/m", "lab/", "lab/ m", f"lab/{'m' * 201}", "/m"])
def test_what_is_no_model_of_a_provider_is_refused(lab: Provider, model: Model, name: str) -> None:
    with pytest.raises(CommandError):
        run("probe_model", name)
    assert model.bodies == []


# --- configuration files ------------------------------------------------------------------------


def apply(tmp_path: Path, text: str, *options: str) -> str:
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return run("apply_config", str(path), *options).out


def test_a_measurement_is_in_no_file_and_applying_one_keeps_it(
    lab: Provider, tmp_path: Path
) -> None:
    run("probe_model", "lab/m")
    before = measured()
    exported = run("export_config").out
    assert "measured" not in exported
    Provider.objects.exclude(pk=lab.pk).delete()
    exported = run("export_config").out
    for options in ((), ("--prune",)):
        apply(tmp_path, exported, *options)
        assert measured() == before
    assert run("export_config").out == exported


def test_a_flag_in_a_file_is_above_the_measurement_and_leaves_it(
    lab: Provider, tmp_path: Path
) -> None:
    run("probe_model", "lab/m")
    before = measured()
    apply(tmp_path, "deployments: [{provider: lab, model: m, capabilities: {vision: true}}]")
    row = Deployment.objects.get()
    assert (row.capabilities, row.measured_capabilities) == ({"vision": True}, before)
    apply(tmp_path, "deployments: [{provider: lab, model: m}]")
    row = Deployment.objects.get()
    assert (row.capabilities, row.measured_capabilities) == ({}, before)


def test_a_new_address_in_a_file_puts_the_measurement_out_of_force(
    lab: Provider, upstream: Upstream, tmp_path: Path
) -> None:
    run("probe_model", "lab/m")
    entry = 'providers: [{name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1"}]'
    apply(tmp_path, entry)
    assert Deployment.objects.get().measured_flags("http://127.0.0.1:9/v1") == {}
    assert Deployment.objects.get().measured_flags(upstream.base_url) == measured()


# --- the migration ------------------------------------------------------------------------------

TRIGGERS = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ",
    "postgres": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal "
    "AND tgrelid::regclass::text = ",
}


def triggers(url: str) -> list[str]:
    """Names of the triggers that count the changes of deployments."""
    table = "'providers_deployment'"
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            found = database.execute(TRIGGERS["sqlite"] + table).fetchall()
    else:
        with psycopg.connect(url) as server:
            found = server.execute(TRIGGERS["postgres"] + table).fetchall()
    return sorted(name for (name,) in found)


def test_the_migration_goes_both_ways_and_changes_are_counted_on_each(
    spare_database_url: str, tmp_path: Path
) -> None:
    found = []
    for name in ("0003", "0004", "0003", "0004"):
        arguments = ("migrate", "-v0", "providers", name)
        finish(start(spare_database_url, tmp_path / "data", *arguments))
        found.append(triggers(spare_database_url))
    assert len(found[0]) in (1, 3)
    assert found == [found[0]] * 4
