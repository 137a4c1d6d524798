"""Every database begins with a provider of each kind the environment can set up."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.db import connection

from providers.models import ENVIRONMENT, Deployment, Provider

pytestmark = pytest.mark.django_db

EDITOR = SimpleNamespace(connection=connection)
"""What the migration asks of a schema editor; SQLite's own works in no transaction of a test's."""

seeds = importlib.import_module("providers.migrations.0003_seed_providers")


def unseed() -> set[str]:
    """Takes the migration back; returns the names of the providers that stay."""
    seeds.remove_untouched_seeds(apps, EDITOR)
    return set(Provider.objects.values_list("name", flat=True))


def test_each_is_named_after_its_kind_and_reads_its_variables() -> None:
    found = {row.name: (row.api_key_env, row.base_url_env) for row in Provider.objects.all()}
    assert found == {str(kind): variables for kind, variables in ENVIRONMENT.items()}
    assert all(row.kind == row.name and row.enabled for row in Provider.objects.all())


def test_a_provider_that_has_the_name_already_stays_as_it_is() -> None:
    Provider.objects.filter(name="openai").update(base_url="http://127.0.0.1:1")
    seeds.add_seeds(apps, EDITOR)
    assert Provider.objects.get(name="openai").base_url == "http://127.0.0.1:1"


def test_taking_them_back_leaves_what_was_changed_or_is_in_use() -> None:
    Provider.objects.filter(name="ollama").update(max_retries=5)
    Deployment.objects.create(provider=Provider.objects.get(name="mlx"), model="x")
    Provider.objects.create(name="mine", kind="fake")
    assert unseed() == {"ollama", "mlx", "mine"}
