"""create_key makes a virtual key and shows its secret once."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.core.management import CommandError

from keys.models import VirtualKey, digest
from tests.gateway_site.commands import run

pytestmark = pytest.mark.django_db


def test_only_the_secret_is_on_standard_output() -> None:
    printed = run("create_key", "ci")
    secret = printed.out.removesuffix("\n")
    key = VirtualKey.objects.get()
    assert key.secret_sha256 == digest(secret)
    assert (secret[:3], len(secret)) == ("gw-", 46)
    assert secret not in printed.err
    assert (key.admin, key.allowed_models, key.rpm, key.budget_usd) == (False, None, None, None)


def test_every_option_reaches_the_key() -> None:
    limits = "--rpm 1 --tpm 2 --max-parallel 3 --budget 0.10 --period day --admin"
    options = f"{limits} --expires 2100-01-31T00:00:00+01:00 --models smart openai/*"
    run("create_key", "ci", *options.split())
    key = VirtualKey.objects.get(name="ci")
    assert (key.rpm, key.tpm, key.max_parallel, key.admin) == (1, 2, 3, True)
    assert (key.budget_usd, key.budget_period) == (Decimal("0.1"), "day")
    assert key.expires_at == datetime(2100, 1, 30, 23, tzinfo=UTC)
    assert key.allowed_models == ["smart", "openai/*"]


def test_a_budget_of_nothing_is_not_the_absence_of_one() -> None:
    run("create_key", "ci", "--budget", "0")
    assert VirtualKey.objects.get().budget_usd == Decimal(0)


def test_a_name_is_taken_once() -> None:
    run("create_key", "ci")
    before = VirtualKey.objects.get().secret_sha256
    with pytest.raises(CommandError, match="There is a key named ci already") as caught:
        run("create_key", "ci")
    assert caught.value.returncode == 1
    assert VirtualKey.objects.get().secret_sha256 == before


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["a b"], "name: Use letters"),
        (["a", "--rpm", "0"], "rpm: Ensure this value is greater than or equal to 1"),
        (["a", "--tpm", "9223372036854775808"], "tpm: Ensure this value is less than"),
        (["a", "--rpm", "many"], "invalid int value"),
        (["a", "--budget", "nan"], "must be an amount of dollars"),
        (["a", "--budget", "-1"], "budget_usd: Ensure this value is greater than or equal to 0"),
        (["a", "--budget", "1e20"], "budget_usd: Ensure that there are no more than"),
        (["a", "--period", "year"], "invalid choice: 'year'"),
        (["a", "--expires", "tomorrow"], "must be a date and time with its zone"),
        (["a", "--expires", "2020-01-01"], "is in the past"),
        (["a", "--models", ""], "allowed_models: Use a list"),
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], cause: str) -> None:
    with pytest.raises(CommandError, match=cause):
        run("create_key", *arguments)
    assert not VirtualKey.objects.exists()
