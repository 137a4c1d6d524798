"""The provider's form: a credential goes in and never comes out."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.utils import timezone

from providers.capabilities import CAPABILITY_NAMES
from providers.models import Deployment, Price, Provider, Route, RouteTarget
from tests.admin.conftest import CANARY, management, provider_form

LIST = "/admin/providers/provider/"


def page_of(row: Provider) -> str:
    return f"{LIST}{row.pk}/change/"


def errors_of(response: Any) -> dict[str, list[str]]:
    form = response.context["adminform"].form
    return {name: list(told) for name, told in form.errors.items()}


def test_a_new_key_is_stored_encrypted(admin_client: Client) -> None:
    admin_client.post(f"{LIST}add/", provider_form(new_api_key=CANARY))
    row = Provider.objects.get(name="new")
    assert CANARY not in row.api_key
    assert row.reveal_api_key() == CANARY


def test_an_empty_field_keeps_the_stored_key(admin_client: Client, provider: Provider) -> None:
    response = admin_client.post(page_of(provider), provider_form(provider, max_retries="5"))
    assert response.status_code == 302
    provider.refresh_from_db()
    assert (provider.max_retries, provider.reveal_api_key()) == (5, CANARY)


def test_a_key_can_be_replaced(admin_client: Client, provider: Provider) -> None:
    admin_client.post(page_of(provider), provider_form(provider, new_api_key="sk-other-key"))
    provider.refresh_from_db()
    assert provider.reveal_api_key() == "sk-other-key"


def test_the_stored_key_can_be_removed(admin_client: Client, provider: Provider) -> None:
    admin_client.post(page_of(provider), provider_form(provider, remove_api_key="on"))
    provider.refresh_from_db()
    assert provider.api_key == ""


def test_a_key_is_stored_or_read_from_a_variable_and_not_both(
    admin_client: Client, provider: Provider
) -> None:
    response = admin_client.post(page_of(provider), provider_form(provider, api_key_env="VLLM_KEY"))
    assert errors_of(response) == {"api_key_env": ["Store a key or name a variable, not both."]}


def test_a_variable_may_take_the_place_of_a_removed_key(
    admin_client: Client, provider: Provider
) -> None:
    changes = {"api_key_env": "VLLM_KEY", "remove_api_key": "on"}
    admin_client.post(page_of(provider), provider_form(provider, **changes))
    provider.refresh_from_db()
    assert (provider.api_key, provider.api_key_env) == ("", "VLLM_KEY")


@pytest.mark.parametrize(
    "change", [{"base_url": "http://evil.example/v1"}, {"base_url_env": "EVIL"}, {"kind": "openai"}]
)
def test_a_stored_key_never_follows_to_another_address(
    admin_client: Client, provider: Provider, change: dict[str, str]
) -> None:
    """M43: whoever may change the address could read the write-only key at his own server."""
    response = admin_client.post(page_of(provider), provider_form(provider, **change))
    assert list(errors_of(response)) == ["new_api_key"]


def test_a_new_address_is_taken_with_its_key(admin_client: Client, provider: Provider) -> None:
    changes = {"base_url": "http://127.0.0.1:9/v1", "new_api_key": "sk-for-the-new-one"}
    response = admin_client.post(page_of(provider), provider_form(provider, **changes))
    assert response.status_code == 302


@pytest.mark.parametrize("field", ["api_key_env", "base_url_env"])
@pytest.mark.parametrize("variable", ["ABSTRACTCORE_SECRET_KEY", "DATABASE_URL", "REDIS_URL_FILE"])
def test_the_gateways_own_secrets_cannot_be_sent_upstream(
    admin_client: Client, field: str, variable: str
) -> None:
    response = admin_client.post(f"{LIST}add/", provider_form(None, **{field: variable}))
    assert field in errors_of(response)


@pytest.mark.parametrize(
    "url", ["ftp://host/", "http://user:pass@host/", "http://host/?key=1", "http://host:99999/"]
)
def test_an_address_that_is_none_is_refused(admin_client: Client, url: str) -> None:
    response = admin_client.post(f"{LIST}add/", provider_form(base_url=url))
    assert list(errors_of(response)) == ["base_url"]


@pytest.mark.parametrize(
    ("stored", "variable", "told"),
    [(CANARY, "", "a key is stored"), ("", "VLLM_KEY", "from $VLLM_KEY"), ("", "", "none")],
)
def test_the_page_says_where_the_key_comes_from(
    admin_client: Client, provider: Provider, stored: str, variable: str, told: str
) -> None:
    provider.set_api_key(stored)
    provider.api_key_env = variable
    provider.save()
    assert told in text_of(admin_client, page_of(provider))
    assert told in text_of(admin_client, LIST)


def test_the_value_of_a_variable_is_not_shown(
    admin_client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_URL", "http://secret-host/v1")
    Provider.objects.update(base_url="", base_url_env="VLLM_URL")
    assert "from $VLLM_URL" in text_of(admin_client, LIST)
    assert "secret-host" not in text_of(admin_client, LIST)


def test_the_secret_is_on_no_page_and_in_no_cookie_history_or_log(
    admin_client: Client, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """M42. The refused form too: a browser would put back what it was given."""
    caplog.set_level(logging.DEBUG)
    refused = provider_form(provider, new_api_key=CANARY, base_url="nonsense")
    shown = [admin_client.post(page_of(provider), refused).content.decode()]
    admin_client.post(page_of(provider), provider_form(provider, new_api_key=CANARY))
    paths = ["", f"{provider.pk}/change/", f"{provider.pk}/history/", f"{provider.pk}/delete/"]
    version = provider.history.latest().pk
    for path in [*paths, f"{provider.pk}/history/{version}/"]:
        shown.append(text_of(admin_client, LIST + path))
    shown += [cookie.OutputString() for cookie in admin_client.cookies.values()]
    shown += [str(row) for row in provider.history.values()]
    shown += [entry.change_message for entry in LogEntry.objects.all()]
    shown.append(caplog.text)
    provider.refresh_from_db()
    assert len(shown) > 8
    assert not [text for text in shown if CANARY in text or provider.api_key in text]


def test_history_tells_who_changed_what(admin_client: Client, provider: Provider) -> None:
    admin_client.post(
        page_of(provider), provider_form(provider, max_retries="7", new_api_key="sk-new-one")
    )
    page = text_of(admin_client, f"{LIST}{provider.pk}/history/")
    assert re.search(r"Max retries:.*2.*7", page, re.DOTALL)
    assert "The API key was set." in page
    assert ">admin<" in page


def test_an_old_version_can_be_read(admin_client: Client, provider: Provider) -> None:
    version = provider.history.latest().pk
    page = text_of(admin_client, f"{LIST}{provider.pk}/history/{version}/")
    assert provider.base_url in page
    assert 'name="base_url"' not in page


def test_an_old_version_cannot_be_put_back(
    admin_client: Client, client_with: Any, provider: Provider
) -> None:
    """django-simple-history lets everyone who may view do this with a bare POST."""
    version = provider.history.latest().pk
    Provider.objects.update(max_retries=9)
    path = f"{LIST}{provider.pk}/history/{version}/"
    for client in (admin_client, client_with("providers.view_provider")):
        assert client.post(path, provider_form(provider)).status_code == 403
    provider.refresh_from_db()
    assert provider.max_retries == 9


def test_a_reader_sees_no_form_for_the_key(client_with: Any, provider: Provider) -> None:
    page = text_of(client_with("providers.view_provider"), page_of(provider))
    assert "a key is stored" in page
    assert "new_api_key" not in page and "New API key" not in page


# --- deployments ------------------------------------------------------------------------------


def deployment_form(row: Deployment, **changes: Any) -> dict[str, Any]:
    posted = {"provider": str(row.provider_id), "model": row.model, "enabled": "on"}
    unset = {f"capabilities_{name}": "" for name in CAPABILITY_NAMES}
    return posted | unset | management("prices") | changes


def deployment_page(row: Deployment) -> str:
    return f"/admin/providers/deployment/{row.pk}/change/"


def test_capabilities_are_yes_no_or_left_alone(
    admin_client: Client, deployment: Deployment
) -> None:
    flags = {"capabilities_tools": "false", "capabilities_vision": "true"}
    response = admin_client.post(deployment_page(deployment), deployment_form(deployment, **flags))
    assert response.status_code == 302
    deployment.refresh_from_db()
    assert deployment.capabilities == {"tools": False, "vision": True}


def test_stored_capabilities_are_chosen_on_the_form(
    admin_client: Client, deployment: Deployment
) -> None:
    Deployment.objects.update(capabilities={"tools": False})
    page = text_of(admin_client, deployment_page(deployment))
    assert page.count('<option value="false" selected>') == 1


def test_all_capabilities_can_be_left_alone_again(
    admin_client: Client, deployment: Deployment
) -> None:
    Deployment.objects.update(capabilities={"tools": False})
    admin_client.post(deployment_page(deployment), deployment_form(deployment))
    deployment.refresh_from_db()
    assert deployment.capabilities == {}


def test_a_price_can_be_added(admin_client: Client, deployment: Deployment) -> None:
    added = {
        "prices-0-valid_from_0": "2026-01-01",
        "prices-0-valid_from_1": "00:00:00",
        "prices-0-input": "0.15",
        "prices-0-output": "0.6",
    }
    changes = management("prices", total=1) | added
    admin_client.post(deployment_page(deployment), deployment_form(deployment, **changes))
    price = deployment.prices.get()
    assert (price.input, price.output) == (Decimal("0.15"), Decimal("0.6"))


def test_a_price_can_be_neither_changed_nor_deleted(
    admin_client: Client, deployment: Deployment
) -> None:
    """M22: what was in force stays on record."""
    began = timezone.now() - timedelta(days=1)
    price = Price.objects.create(deployment=deployment, valid_from=began, input=1, output=2)
    posted = {
        "prices-0-id": str(price.pk),
        "prices-0-deployment": str(deployment.pk),
        "prices-0-valid_from_0": "2020-01-01",
        "prices-0-valid_from_1": "00:00:00",
        "prices-0-input": "9",
        "prices-0-output": "9",
        "prices-0-DELETE": "on",
    }
    changes = management("prices", total=1, initial=1) | posted
    admin_client.post(deployment_page(deployment), deployment_form(deployment, **changes))
    price.refresh_from_db()
    assert (price.input, price.valid_from) == (Decimal(1), began)
    assert 'name="prices-0-input"' not in text_of(admin_client, deployment_page(deployment))


def test_the_list_shows_the_price_in_force(admin_client: Client, deployment: Deployment) -> None:
    now = timezone.now()
    for days, amount in ((-2, 1), (-1, 3), (1, 5)):
        Price.objects.create(
            deployment=deployment,
            valid_from=now + timedelta(days=days),
            input=amount,
            output=amount * 10,
        )
    assert "3 in, 30 out" in text_of(admin_client, "/admin/providers/deployment/")


# --- routes -----------------------------------------------------------------------------------


def test_an_added_target_stands_last_as_on_the_page(
    admin_client: Client, provider: Provider
) -> None:
    """A row that was added and not dragged comes with position 0, like the first."""
    route = Route.objects.create(name="smart")
    deployments = [
        Deployment.objects.create(provider=provider, model=name) for name in ("x", "b", "a", "c")
    ]
    kept = [
        RouteTarget.objects.create(route=route, deployment=deployment, position=position)
        for position, deployment in enumerate(deployments[:2])
    ]
    posted = {
        "name": "smart",
        "strategy": "fallback",
        "enabled": "on",
        **management("targets", total=4, initial=2),
    }
    for place, (deployment, position) in enumerate(zip(deployments, "0100", strict=True)):
        posted[f"targets-{place}-deployment"] = str(deployment.pk)
        posted[f"targets-{place}-position"] = position
    for place, target in enumerate(kept):
        posted |= {f"targets-{place}-id": str(target.pk), f"targets-{place}-route": str(route.pk)}
    response = admin_client.post(f"/admin/providers/route/{route.pk}/change/", posted)
    assert response.status_code == 302
    assert [target.deployment for target in route.targets.all()] == deployments


def test_a_target_dragged_to_the_top_stays_there(admin_client: Client, provider: Provider) -> None:
    old, new = (Deployment.objects.create(provider=provider, model=name) for name in ("x", "a"))
    route = Route.objects.create(name="smart")
    kept = RouteTarget.objects.create(route=route, deployment=old, position=0)
    posted = {
        "name": "smart",
        "strategy": "fallback",
        **management("targets", total=2, initial=1),
        "targets-0-id": str(kept.pk),
        "targets-0-route": str(route.pk),
        "targets-0-deployment": str(old.pk),
        "targets-0-position": "1",
        "targets-1-deployment": str(new.pk),
        "targets-1-position": "0",
    }
    admin_client.post(f"/admin/providers/route/{route.pk}/change/", posted)
    assert [target.deployment for target in route.targets.all()] == [new, old]


def test_lists_cost_the_same_queries_however_many_rows(
    admin_client: Client, provider: Provider, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        row = Deployment.objects.create(provider=provider, model=f"m{number}")
        route = Route.objects.create(name=f"r{number}")
        RouteTarget.objects.create(route=route, deployment=row)
    for path in ("deployment", "route"):
        with django_assert_max_num_queries(10, connection=connection):
            admin_client.get(f"/admin/providers/{path}/")


def text_of(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200, path
    return response.content.decode()
