"""apply_config makes the database match a file, or leaves it alone and says why."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import DatabaseError, models
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import pre_save

from keys.models import VirtualKey, digest
from providers.models import Deployment, Price, Provider, Route
from providers.snapshot import read_revision
from tests.gateway_site.commands import SAMPLE, Printed, finish, run, start

pytestmark = pytest.mark.django_db

Apply = Callable[..., Printed]
SECRET = "gw-canary-0123456789abcdef"


@pytest.fixture
def apply(tmp_path: Path) -> Apply:
    """Applies a text."""

    def apply_text(text: str, *options: str) -> Printed:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return run("apply_config", str(path), *options)

    return apply_text


def problems(apply: Apply, text: str) -> list[str]:
    with pytest.raises(CommandError) as caught:
        apply(text)
    assert caught.value.returncode == 1
    header, *lines = str(caught.value).splitlines()
    assert header == "The configuration is wrong, nothing was changed:"
    return lines


def everything() -> list[object]:
    tables = (Provider, Deployment, Price, Route, VirtualKey)
    return [row for table in tables for row in table._default_manager.order_by("pk").values()]


def test_the_sample_of_the_contract_applies(apply: Apply) -> None:
    assert apply(SAMPLE).out.splitlines() == [
        "~ provider openai: base_url none -> http://127.0.0.1:9001/v1; "
        "base_url_env OPENAI_BASE_URL -> none; api_key_env OPENAI_API_KEY -> none; api_key changed",
        "+ provider claude",
        "+ deployment openai/gpt-4o-mini",
        "+ deployment claude/claude-3-5-haiku-latest",
        "+ route smart",
        "+ key ci",
    ]
    provider = Provider.objects.get(name="openai")
    assert (provider.reveal_api_key(), provider.base_url) == ("sk-test", "http://127.0.0.1:9001/v1")
    assert "sk-test" not in provider.api_key
    deployment = Deployment.objects.get(model="gpt-4o-mini")
    assert (deployment.capabilities, deployment.context_window) == ({"tools": False}, 128000)
    price = deployment.prices.get()
    assert (price.input, price.output) == (Decimal("0.15"), Decimal("0.60"))
    assert (price.cached_input, price.cache_write) == (Decimal("0.075"), None)
    targets = Route.objects.get(name="smart").targets.all()
    assert [str(target.deployment) for target in targets] == [
        "openai/gpt-4o-mini",
        "claude/claude-3-5-haiku-latest",
    ]
    key = VirtualKey.objects.get(name="ci")
    assert key.secret_sha256 == digest("gw-test-0123456789abcdef0123456789abcdef")
    assert (key.allowed_models, key.rpm, key.tpm) == (["smart", "openai/*"], 600, 100000)
    assert (key.max_parallel, key.budget_usd, key.budget_period) == (8, Decimal(5), "month")


def test_a_second_run_changes_nothing(apply: Apply) -> None:
    apply(SAMPLE)
    before, revision = everything(), read_revision()
    assert apply(SAMPLE).out == "no changes\n"
    assert (everything(), read_revision()) == (before, revision)


def test_standard_input_is_read_for_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"providers: [{name: demo, kind: fake}]"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert run("apply_config", "-").out == "+ provider demo\n"


def test_a_dry_run_prints_the_same_and_changes_nothing(apply: Apply) -> None:
    before, revision = everything(), read_revision()
    printed = apply(SAMPLE, "--dry-run")
    assert (everything(), read_revision()) == (before, revision)
    assert apply(SAMPLE) == printed


def test_a_changed_key_raises_the_revision(apply: Apply) -> None:
    apply(SAMPLE)
    before = read_revision()
    assert apply(SAMPLE.replace("rpm: 600", "rpm: 60")).out == "~ key ci: rpm 600 -> 60\n"
    assert read_revision() > before


def test_an_entry_is_the_whole_truth_about_its_row(apply: Apply) -> None:
    apply(
        "providers: [{name: demo, kind: fake, max_retries: 5, timeout_s: 30, enabled: false,"
        " options: {models: {echo: {}}}, api_key: sk-canary}]"
    )
    printed = apply("providers: [{name: demo, kind: fake}]").out
    assert printed == (
        "~ provider demo: timeout_s 30 -> 60; enabled false -> true; max_retries 5 -> 2; "
        "options changed; api_key removed\n"
    )
    demo = Provider.objects.get(name="demo")
    assert (demo.max_retries, demo.timeout_idle_s, demo.enabled) == (2, 60, True)
    assert (demo.options, demo.api_key) == ({}, "")


def test_timeouts_can_be_given_one_by_one(apply: Apply) -> None:
    apply("providers: [{name: demo, kind: fake, timeouts: {connect: 1.5, total: 900}}]")
    demo = Provider.objects.get(name="demo")
    assert (demo.timeout_connect_s, demo.timeout_total_s) == (1.5, 900)
    assert (demo.timeout_first_byte_s, demo.timeout_idle_s) == (60, 60)


def test_true_and_one_differ_in_options(apply: Apply) -> None:
    apply("providers: [{name: demo, kind: fake, options: {x: 1}}]")
    changed = apply("providers: [{name: demo, kind: fake, options: {x: true}}]").out
    assert changed == "~ provider demo: options changed\n"
    assert Provider.objects.get(name="demo").options == {"x": True}


def test_everything_that_is_wrong_is_named_with_its_place(apply: Apply) -> None:
    text = f"""
providers:
  - {{name: openai, kind: openai, basee_url: "http://127.0.0.1:1"}}
  - {{name: "b c", kind: nonesuch, max_retries: "3", timeouts: {{idle: 0}}}}
  - {{name: c, kind: fake, api_key: sk-canary, api_key_env: X}}
  - {{name: d, kind: fake, timeout_s: 1, timeouts: {{idle: 1}}}}
  - {{name: e, kind: openai-compatible}}
  - {{name: f, kind: fake, breaker: {{failures: -1, rate: 2, window_s: 0, opens: 1}}}}
  - {{name: g, kind: fake, base_url: "ftp://x"}}
deployments:
  - {{provider: openai, model: x, capabilities: {{flying: true}}, price: {{input: -1}}}}
routes:
  - {{name: r, strategy: weighted, targets: [{{provider: openai, model: x, weight: 2}}]}}
  - {{name: s, targets: x}}
keys:
  - {{name: short, secret: canary}}
  - {{name: both, secret: {SECRET}, secret_env: X}}
  - {{name: times, secret: {SECRET}, expires_at: 2026-01-01T00:00:00, budget_usd: much}}
  - {{name: all, secret: {SECRET}, models: }}
  - just text
tools:
  - {{name: get_weather}}
surprise: 1
"""
    lines = problems(apply, text)
    assert lines == [
        "providers[0].basee_url: unknown field",
        "providers[1].name: Use letters, digits, dots, underscores and hyphens; begin with a "
        "letter or digit.",
        "providers[1].kind: must be one of openai, openai-compatible, anthropic, ollama, lmstudio, "
        "mlx, huggingface, fake",
        "providers[1].timeouts.idle: must be greater than 0",
        "providers[1].max_retries: must be a valid integer",
        "providers[2]: api_key and api_key_env exclude one another",
        "providers[3]: timeout_s and timeouts exclude one another",
        "providers[4]: An OpenAI-compatible provider needs its address.",
        "providers[5].breaker.failures: must be greater than or equal to 0",
        "providers[5].breaker.rate: must be less than or equal to 1",
        "providers[5].breaker.window_s: must be greater than 0",
        "providers[5].breaker.opens: unknown field",
        "providers[6].base_url: Use an http:// or https:// URL of a host, a port and a path only.",
        "deployments[0].price.input: must be greater than or equal to 0",
        "deployments[0].price.output: is required",
        "deployments[0].capabilities: 'flying' is not one of tools, parallel_tools, tool_choice, "
        "structured_output, json_mode, vision, audio, reasoning, streaming, streaming_usage, "
        "system_role, embeddings.",
        "routes[0].strategy: not available in this version",
        "routes[0].targets[0].weight: not available in this version",
        "routes[1].targets: must be a valid list",
        "keys[0].secret: must have 20 characters or more",
        "keys[1]: secret and secret_env exclude one another",
        "keys[2].budget_usd: must be an amount of dollars",
        "keys[2].expires_at: must be a date and time with its zone, such as 2026-01-31T00:00:00Z",
        "keys[3].models: needs a list; leave the field out to allow every model",
        "keys[4]: must be a mapping",
        "tools[0].kind: is required",
        "surprise: unknown field",
    ]
    assert "canary" not in "".join(lines)


def test_names_and_references_are_checked_before_anything_is_written(apply: Apply) -> None:
    text = f"""
providers: [{{name: a, kind: fake}}, {{name: a, kind: fake}}]
deployments: [{{provider: nobody, model: x}}, {{provider: a, model: x}}, {{provider: a, model: x}}]
routes:
  - {{name: r, targets: [{{provider: nowhere, model: x}}]}}
  - {{name: r, targets: [{{provider: a, model: x}}, {{provider: a, model: x}}]}}
keys:
  - {{name: one, secret: {SECRET}}}
  - {{name: two, secret: {SECRET}}}
  - {{name: three}}
  - {{name: four, secret_env: UNSET_VARIABLE}}
"""
    before = everything()
    assert problems(apply, text) == [
        "providers[1]: a is named twice",
        "deployments[2]: a/x is named twice",
        "routes[1]: r is named twice",
        "routes[1].targets[1]: a/x is named twice",
        "deployments[0].provider: there is no provider nobody",
        "routes[0].targets[0].provider: there is no provider nowhere",
        "keys[1]: has the secret of the key one",
        "keys[2]: a new key needs secret or secret_env; or make it with create_key",
        "keys[3].secret_env: UNSET_VARIABLE is not set",
    ]
    assert everything() == before


def test_a_key_given_twice_in_a_mapping_is_an_error(apply: Apply) -> None:
    text = "providers:\n  - name: a\n    kind: fake\n    name: b\n"
    assert problems(apply, text) == ["line 4: name is given twice"]


def test_merged_mappings_may_override_their_fields(apply: Apply) -> None:
    text = "providers:\n  - &a {name: a, kind: fake}\n  - {<<: *a, name: b}\n"
    assert apply(text).out == "+ provider a\n+ provider b\n"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "the file must be a mapping of lists of entries"),
        ("- a", "the file must be a mapping of lists of entries"),
        ("providers: [", "line 1, column 13: expected the node content, but found …"),
        ("keys: [{secret: *canary}]", "line 1, column 17: found undefined alias …"),
        ("keys: [{secret: !canary x}]", "line 1, column 17: could not determine a constructor"),
        ("[" * 5000, "the file is nested too deeply"),
        ("providers: [{name: a, kind: fake, options: {x: .nan}}]", "options.x: must be a finite"),
        (
            "providers: [{name: a, kind: fake, options: {x: {1: y}}}]",
            "options.x: has a key that is",
        ),
        ('providers: [{name: a, kind: fake, options: {x: "\\0"}}]', "options.x: holds a character"),
        ("providers: [{name: a, kind: fake, options: &a {x: *a}}]", "options.x: refers to itself"),
        ("providers: [{name: a, kind: fake, options: {x: !!binary aGk=}}]", "options.x: holds a"),
    ],
)
def test_a_text_that_is_no_configuration_is_refused(apply: Apply, text: str, cause: str) -> None:
    (line,) = problems(apply, text)
    assert cause in line
    assert "canary" not in line


def test_a_file_that_is_missing_or_not_text_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        run("apply_config", str(tmp_path / "missing.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"# \xe4\n")
    with pytest.raises(CommandError, match="is not UTF-8 text"):
        run("apply_config", str(tmp_path / "latin.yaml"))


@contextmanager
def failing(model: type[models.Model]) -> Iterator[None]:
    """The database fails whenever a row of the model is saved."""

    def fail(**_: Any) -> None:
        raise DatabaseError("row (canary)")

    pre_save.connect(fail, sender=model)
    try:
        yield
    finally:
        pre_save.disconnect(fail, sender=model)


def test_a_failure_at_the_last_row_undoes_the_first(apply: Apply) -> None:
    before = everything()
    with failing(VirtualKey), pytest.raises(CommandError) as caught:
        apply(SAMPLE, "--prune")
    assert everything() == before
    assert str(caught.value) == (
        "Nothing was changed: the database refused the change (DatabaseError)"
    )


def test_without_prune_other_rows_stay(apply: Apply) -> None:
    apply(SAMPLE)
    before = everything()
    assert apply("keys: []").out == "no changes\n"
    assert everything() == before


def test_prune_removes_what_is_not_named(apply: Apply) -> None:
    apply(SAMPLE)
    text = """
providers:
  - {name: claude, kind: anthropic, base_url: "http://127.0.0.1:9002", api_key: sk-ant-test}
routes: [{name: only, targets: [{provider: claude, model: claude-3-5-haiku-latest}]}]
"""
    assert apply(text, "--prune").out.splitlines() == [
        "- key ci",
        "- route smart",
        "- deployment openai/gpt-4o-mini",
        "- provider anthropic",
        "- provider huggingface",
        "- provider lmstudio",
        "- provider mlx",
        "- provider ollama",
        "- provider openai",
        "+ route only",
    ]
    assert [str(row) for row in Provider.objects.all()] == ["claude"]
    assert [str(row) for row in Deployment.objects.all()] == ["claude/claude-3-5-haiku-latest"]
    assert not VirtualKey.objects.exists()
    assert apply(text, "--prune").out == "no changes\n"


def test_prune_takes_facts_from_a_deployment_that_is_only_a_target(apply: Apply) -> None:
    apply(SAMPLE)
    lines = SAMPLE.splitlines()
    first, last = lines.index("deployments:"), lines.index("routes:")
    printed = apply("\n".join(lines[:first] + lines[last:]), "--prune").out.splitlines()
    assert printed[-1] == (
        '~ deployment openai/gpt-4o-mini: capabilities {"tools": false} -> {}; '
        "context_window 128000 -> none; price removed"
    )


def test_a_pruned_provider_cannot_be_referred_to(apply: Apply) -> None:
    with pytest.raises(CommandError, match=r"deployments\[0\].provider: there is no provider mlx"):
        apply("deployments: [{provider: mlx, model: x}]", "--prune")


def test_a_route_takes_its_targets_in_a_new_order(apply: Apply) -> None:
    route = "routes: [{name: r, targets: [%s]}]"
    one, other = "{provider: mlx, model: a}", "{provider: ollama, model: b}"
    apply(route % f"{one}, {other}")
    printed = apply(route % f"{other}, {one}").out
    assert printed == "~ route r: targets mlx/a, ollama/b -> ollama/b, mlx/a\n"
    targets = Route.objects.get().targets.all()
    assert [str(target.deployment) for target in targets] == ["ollama/b", "mlx/a"]


def priced(price: str) -> str:
    return f"deployments: [{{provider: openai, model: m, {price}}}]"


def test_a_new_price_leaves_the_old_one_in_history(apply: Apply) -> None:
    apply(priced("price: {input: 1, output: 2}"))
    printed = apply(priced("price: {input: 1.5, output: 2, cache_write: '0.1'}")).out
    assert printed == "~ deployment openai/m: price input 1 -> 1.5, cache_write none -> 0.1\n"
    prices = Price.objects.order_by("valid_from")
    assert [price.input for price in prices] == [Decimal(1), Decimal("1.5")]


def test_a_flat_price_replaces_planned_ones(apply: Apply) -> None:
    apply(
        priced(
            "prices: [{valid_from: 2020-01-01, input: 1, output: 2},"
            " {valid_from: 2120-01-01, input: 9, output: 9}]"
        )
    )
    printed = apply(priced("price: {input: 1, output: 2}")).out
    assert printed == "~ deployment openai/m: planned prices removed\n"
    assert [price.valid_from.year for price in Price.objects.all()] == [2020]


def test_dated_prices_are_the_whole_list(apply: Apply) -> None:
    apply(priced("price: {input: 1, output: 2}"))
    dated = "prices: [{valid_from: '2026-01-31T00:00:00+02:00', input: 3, output: 4}]"
    assert apply(priced(dated)).out == "~ deployment openai/m: prices changed\n"
    assert Price.objects.get().valid_from == datetime(2026, 1, 30, 22, tzinfo=UTC)
    assert apply(priced(dated)).out == "no changes\n"


def test_a_price_that_is_no_longer_named_is_the_catalogues_again(apply: Apply) -> None:
    apply(priced("price: {input: 1, output: 2}"))
    assert apply(priced("enabled: true")).out == "~ deployment openai/m: price removed\n"
    assert not Price.objects.exists()


def test_a_key_keeps_a_secret_the_file_does_not_give(apply: Apply) -> None:
    apply(f"keys: [{{name: a, secret: {SECRET}}}]")
    assert apply("keys: [{name: a, admin: true}]").out == "~ key a: admin false -> true\n"
    assert VirtualKey.objects.get().secret_sha256 == digest(SECRET)


def test_a_keys_secret_comes_from_the_environment(
    apply: Apply, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "keys: [{name: a, secret_env: CI_SECRET}]"
    monkeypatch.setenv("CI_SECRET", SECRET)
    apply(text)
    assert VirtualKey.objects.get().secret_sha256 == digest(SECRET)
    monkeypatch.delenv("CI_SECRET")
    assert apply(text) == ("no changes\n", "CI_SECRET is not set: key a keeps its secret\n")
    (tmp_path / "secret").write_text(f"{SECRET}-2\n")
    monkeypatch.setenv("CI_SECRET_FILE", str(tmp_path / "secret"))
    assert apply(text).out == "~ key a: secret changed\n"
    monkeypatch.setenv("CI_SECRET", "canary")
    weak = "keys[0].secret_env: the value of CI_SECRET must have 20 characters or more"
    assert problems(apply, text) == [weak]
    monkeypatch.delenv("CI_SECRET")
    monkeypatch.setenv("CI_SECRET_FILE", str(tmp_path / "missing"))
    assert problems(apply, text) == ["the file that CI_SECRET_FILE names cannot be read"]


def test_two_keys_can_exchange_their_secrets(apply: Apply) -> None:
    text = f"keys: [{{name: a, secret: {SECRET}-1}}, {{name: b, secret: {SECRET}-2}}]"
    apply(text)
    apply(text.replace("name: a", "name: c").replace("name: b", "name: a").replace(": c", ": b"))
    found = dict(VirtualKey.objects.values_list("name", "secret_sha256"))
    assert found == {"a": digest(f"{SECRET}-2"), "b": digest(f"{SECRET}-1")}


def test_a_key_can_be_renamed_with_prune_only(apply: Apply) -> None:
    apply(f"keys: [{{name: old, secret: {SECRET}}}]")
    renamed = f"keys: [{{name: new, secret: {SECRET}}}]"
    assert problems(apply, renamed) == ["keys[0]: has the secret of the key old"]
    assert "+ key new" in apply(renamed, "--prune").out


def test_no_secret_is_printed(apply: Apply) -> None:
    text = (
        "providers: [{{name: demo, kind: fake, api_key: sk-canary-{n},"
        " options: {{token: canary-{n}}}}}]\n"
        "keys: [{{name: a, secret: gw-canary-0123456789-{n}}}]"
    )
    for printed in (apply(text.format(n=1)), apply(text.format(n=2)), apply("{}", "--prune")):
        assert "canary" not in printed.out + printed.err
    for history in (*Provider.history.values(), *VirtualKey.history.values()):
        assert "sk-canary" not in str(history)
        assert "gw-canary" not in str(history)


def test_a_database_that_is_behind_is_left_alone(apply: Apply) -> None:
    MigrationRecorder.Migration.objects.filter(app="usage").delete()
    before = everything()
    with pytest.raises(CommandError, match=r"lacks migrations: usage\.0001_initial"):
        apply(SAMPLE)
    assert everything() == before


def test_two_at_once_on_an_empty_database_agree(tmp_path: Path, spare_database_url: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SAMPLE)
    two = [start(spare_database_url, tmp_path, "apply_config", str(path)) for _ in range(2)]
    out = sorted(finish(process).out for process in two)
    assert out[0] == "no changes\n"
    assert "+ key ci\n" in out[1]
