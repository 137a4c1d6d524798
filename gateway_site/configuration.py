"""The database made to match a configuration.

The file is the whole truth about the rows it names: what an entry leaves out returns to its
default, so that the result does not depend on what was there before. Five things are not in a
file, or not always, and stay:

- a virtual key's secret, where its entry has neither `secret` nor a `secret_env` that is set: the
  database holds a digest only, and no file can repeat it;
- a provider's stored credential, where `api_key_env` is the name `export_config` gives it
  (`configuration_secrets.provider_variables`) and that variable is unset or holds the same;
- a tool's headers and its signing secret, likewise (`configuration_tools`);
- the past prices of a deployment with a flat `price`: a changed price is a new row from now on;
- what was measured of a deployment (`probe_model`): nobody's word but the upstream's, below any
  capability the file names, and out of force by itself where the upstream is another.

Rows the file does not name stay too, unless `prune` is asked for. A route's target that no
deployment entry describes is a deployment without any facts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from gateway_site.configuration_differences import assign, show
from gateway_site.configuration_file import ConfigurationError
from gateway_site.configuration_schema import (
    Configuration,
    DeploymentEntry,
    Entry,
    KeyEntry,
    ProviderEntry,
    RemoteEntry,
    RouteEntry,
)
from gateway_site.configuration_secrets import (
    secret_problems,
    settle_api_key,
    settle_secret,
    vacate_digests,
)
from gateway_site.configuration_tools import address_notes, settle_remote, tool_problems
from keys.models import VirtualKey
from providers.models import ConfigRevision, Deployment, Price, Provider, Route, RouteTarget
from tools_app.models import McpServer, Tool

E = TypeVar("E", bound=Entry)
Row = Provider | Deployment | Route | VirtualKey | Tool | McpServer
Pair = tuple[str, str]
"""A provider's name and a model."""


@dataclass
class Changes:
    """`lines` say what became different, `notes` what the operator may not expect."""

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@contextmanager
def configuration_lock() -> Iterator[None]:
    """A transaction that no other change of the configuration can commit beside.

    Every change raises the revision's row (see `providers.revision`), and here it is locked first:
    by a write, since SQLite has no other lock and refuses one to a transaction that began to read.
    """
    with transaction.atomic():
        ConfigRevision.objects.filter(pk=1).update(revision=F("revision"))
        yield


def apply(configuration: Configuration, *, prune: bool = False, dry_run: bool = False) -> Changes:
    """Makes the database match, or nothing at all. Raises ConfigurationError, DatabaseError."""
    changes = Changes()
    with configuration_lock():
        if problems := list(_problems(configuration, prune=prune)):
            raise ConfigurationError(problems)
        if prune:
            _prune(configuration, changes)
        _apply_providers(configuration.providers, changes)
        _apply_deployments(_wanted_deployments(configuration, prune=prune), changes)
        _apply_routes(configuration.routes, changes)
        _apply_keys(configuration.keys, changes)
        _apply_remote(Tool, configuration.tools, changes)
        _apply_remote(McpServer, configuration.mcp_servers, changes)
        if dry_run:
            transaction.set_rollback(True)
    return changes


def _problems(configuration: Configuration, *, prune: bool) -> Iterator[str]:
    """What is wrong with a configuration beyond its entries' own shapes."""
    yield from _repeated("providers", configuration.providers, lambda entry: entry.name)
    yield from _repeated(
        "deployments", configuration.deployments, lambda entry: (entry.provider, entry.model)
    )
    yield from _repeated("routes", configuration.routes, lambda entry: entry.name)
    yield from _repeated("keys", configuration.keys, lambda entry: entry.name)
    yield from _repeated("tools", configuration.tools, lambda entry: entry.name)
    yield from _repeated("mcp_servers", configuration.mcp_servers, lambda entry: entry.name)
    for place, route in enumerate(configuration.routes):
        yield from _repeated(
            f"routes[{place}].targets", route.targets, lambda entry: (entry.provider, entry.model)
        )
    yield from _unknown_providers(configuration, prune=prune)
    yield from secret_problems(configuration.keys, prune=prune)
    yield from tool_problems(configuration, prune=prune)


def _repeated(place: str, entries: Iterable[E], name: Callable[[E], Hashable]) -> Iterator[str]:
    seen: set[Hashable] = set()
    for index, entry in enumerate(entries):
        if name(entry) in seen:
            yield f"{place}[{index}]: {show(name(entry))} is named twice"
        seen.add(name(entry))


def _unknown_providers(configuration: Configuration, *, prune: bool) -> Iterator[str]:
    known = {entry.name for entry in configuration.providers}
    if not prune:
        known |= set(Provider.objects.values_list("name", flat=True))
    named = [
        (f"deployments[{index}]", deployment.provider)
        for index, deployment in enumerate(configuration.deployments)
    ] + [
        (f"routes[{index}].targets[{position}]", target.provider)
        for index, route in enumerate(configuration.routes)
        for position, target in enumerate(route.targets)
    ]
    for place, provider in named:
        if provider not in known:
            yield f"{place}.provider: there is no provider {provider}"


def _prune(configuration: Configuration, changes: Changes) -> None:
    """Deletes what the file does not name. Keys go first: another may take over their secret."""
    keys = {entry.name for entry in configuration.keys}
    _delete(VirtualKey.objects.exclude(name__in=keys), changes)
    routes = {entry.name for entry in configuration.routes}
    _delete(Route.objects.exclude(name__in=routes), changes)
    pairs = {(entry.provider, entry.model) for entry in configuration.deployments}
    pairs |= set(_targets(configuration))
    _delete((row for pair, row in _deployments().items() if pair not in pairs), changes)
    providers = {entry.name for entry in configuration.providers}
    _delete(Provider.objects.exclude(name__in=providers), changes)
    tools = {entry.name for entry in configuration.tools}
    _delete(Tool.objects.exclude(name__in=tools), changes)
    servers = {entry.name for entry in configuration.mcp_servers}
    _delete(McpServer.objects.exclude(name__in=servers), changes)


def _delete(rows: Iterable[Row], changes: Changes) -> None:
    # One by one, each with its history.
    for row in rows:
        changes.lines.append(f"- {_noun(row)} {row}")
        row.delete()


def _apply_providers(entries: Iterable[ProviderEntry], changes: Changes) -> None:
    rows = {row.name: row for row in Provider.objects.all()}
    for entry in entries:
        row = rows.get(entry.name) or Provider(name=entry.name)
        differences = assign(row, entry.columns())
        differences += settle_api_key(row, entry, changes.notes)
        _save(row, differences, changes)


def _save(
    row: Row,
    differences: list[str],
    changes: Changes,
    *,
    then: Callable[[], list[str]] = list,
) -> None:
    """Saves a row that is new or different, then settles what hangs on it."""
    is_new = row._state.adding
    if is_new or differences:
        row.save()
    differences = differences + then()
    if is_new:
        changes.lines.append(f"+ {_noun(row)} {row}")
    elif differences:
        changes.lines.append(f"~ {_noun(row)} {row}: {'; '.join(differences)}")


def _noun(row: Row) -> str:
    return "key" if isinstance(row, VirtualKey) else str(row._meta.verbose_name)


def _targets(configuration: Configuration) -> Iterator[Pair]:
    for route in configuration.routes:
        for target in route.targets:
            yield target.provider, target.model


def _wanted_deployments(configuration: Configuration, *, prune: bool) -> list[DeploymentEntry]:
    """The file's entries, and bare ones for targets without: those that do not exist yet or, where
    the file is to be everything, may not keep other facts."""
    described = {(entry.provider, entry.model) for entry in configuration.deployments}
    kept = set() if prune else set(Deployment.objects.values_list("provider__name", "model"))
    bare = dict.fromkeys(pair for pair in _targets(configuration) if pair not in described | kept)
    return [
        *configuration.deployments,
        *(DeploymentEntry(provider=provider, model=model) for provider, model in bare),
    ]


def _apply_deployments(entries: Iterable[DeploymentEntry], changes: Changes) -> None:
    providers = {row.name: row for row in Provider.objects.all()}
    rows = _deployments()
    for entry in entries:
        row = rows.get((entry.provider, entry.model)) or Deployment(
            provider=providers[entry.provider], model=entry.model
        )
        settle = partial(_settle_prices, row, entry)
        _save(row, assign(row, entry.columns()), changes, then=settle)


def _deployments() -> dict[Pair, Deployment]:
    rows = Deployment.objects.select_related("provider")
    return {(row.provider.name, row.model): row for row in rows}


def _settle_prices(row: Deployment, entry: DeploymentEntry) -> list[str]:
    """Returns what changed. Records keep the prices they were billed at, whatever happens here."""
    if entry.price is not None:
        return _settle_price(row, entry.price.columns())
    wanted = {price.valid_from: price.columns() for price in entry.prices or ()}
    changed = _delete_prices(price for price in row.prices.all() if price.valid_from not in wanted)
    kept = {price.valid_from: price for price in row.prices.all()}
    for valid_from, columns in wanted.items():
        price = kept.get(valid_from) or Price(deployment=row, valid_from=valid_from)
        if assign(price, columns) or price._state.adding:
            price.save()
            changed = True
    return ["prices changed" if wanted else "price removed"] if changed else []


def _settle_price(row: Deployment, wanted: Mapping[str, Any]) -> list[str]:
    """One price from now on: none is planned, and the one in force is this."""
    now = timezone.now()
    planned = _delete_prices(row.prices.filter(valid_from__gt=now))
    price = row.prices.order_by("-valid_from").first()
    differences = assign(price, wanted) if price else ["added"]
    if differences:
        Price.objects.create(deployment=row, valid_from=now, **wanted)
        return [f"price {', '.join(differences)}"]
    return ["planned prices removed"] if planned else []


def _delete_prices(prices: Iterable[Price]) -> bool:
    doomed = list(prices)
    for price in doomed:
        price.delete()
    return bool(doomed)


def _apply_routes(entries: Iterable[RouteEntry], changes: Changes) -> None:
    rows = {row.name: row for row in Route.objects.all()}
    deployments = _deployments()
    for entry in entries:
        row = rows.get(entry.name) or Route(name=entry.name)
        targets = [deployments[target.provider, target.model] for target in entry.targets]
        settle = partial(_settle_targets, row, targets)
        _save(row, assign(row, entry.columns()), changes, then=settle)


def _settle_targets(row: Route, wanted: list[Deployment]) -> list[str]:
    present = list(row.targets.select_related("deployment__provider").order_by("position", "pk"))
    if [target.deployment for target in present] == wanted:
        return []
    for target in present:
        target.delete()
    for position, deployment in enumerate(wanted):
        RouteTarget.objects.create(route=row, deployment=deployment, position=position)
    before = ", ".join(str(target.deployment) for target in present)
    after = ", ".join(str(deployment) for deployment in wanted)
    return [f"targets {before or 'none'} -> {after or 'none'}"]


def _apply_keys(entries: Sequence[KeyEntry], changes: Changes) -> None:
    rows = {row.name: row for row in VirtualKey.objects.all()}
    vacate_digests(rows.values(), entries)
    for entry in entries:
        row = rows.get(entry.name) or VirtualKey(name=entry.name)
        differences = assign(row, entry.columns())
        _save(row, differences + settle_secret(row, entry, changes.notes), changes)


def _apply_remote(
    model: type[Tool] | type[McpServer], entries: Sequence[RemoteEntry], changes: Changes
) -> None:
    rows = {row.name: row for row in model._default_manager.all()}
    for entry in entries:
        row = rows.get(entry.name) or model(name=entry.name)
        differences = assign(row, entry.columns())
        _save(row, differences + settle_remote(row, entry, changes.notes), changes)
    changes.notes.extend(address_notes(entries))
