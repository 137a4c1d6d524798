"""Measure capabilities: what is kept of a probe, where, and who may start one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from providers import snapshot
from providers.measuring import measure
from providers.models import Deployment, Provider
from providers.probe import Findings
from tests.admin.conftest import CANARY, ClientWith
from tests.scripted_model import Model
from tests.upstream import Upstream, completion, scripted_upstream, silence
from usage.models import UsageRecord

LIST = "/admin/providers/deployment/"
SUBMITTED = {"_form_submitted": "True"}


@pytest.fixture
def scripted() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture
def model(scripted: Upstream) -> Model:
    """What the deployment's model says; it sees no pictures."""
    model = Model(vision=(400, {"error": {"message": "<b>no</b> pictures"}}))
    scripted.script = model.play
    return model


@pytest.fixture
def deployment(db: None, scripted: Upstream, model: Model) -> Deployment:
    provider = Provider(name="lab", kind="openai-compatible", base_url=scripted.base_url)
    provider.set_api_key(CANARY)
    provider.save()
    return Deployment.objects.create(provider=provider, model="m")


def path_of(deployment: Deployment) -> str:
    return f"{LIST}{deployment.pk}/measure/"


def facts_of(deployment: Deployment) -> dict[str, bool]:
    return dict(snapshot.load().deployments["lab", deployment.model].measured)


# --- what is kept -------------------------------------------------------------------------------


def test_flags_are_kept_with_their_date_and_evidence(deployment: Deployment) -> None:
    findings = measure(deployment, key="probe_model")
    deployment.refresh_from_db()
    assert deployment.measured_capabilities == findings.flags
    assert (findings.flags["tools"], findings.flags["vision"]) == (True, False)
    assert deployment.measured_at is not None
    today = f"{deployment.measured_at:%Y-%m-%d}"
    told = deployment.measured_evidence["vision"]
    assert told == f"{today}: Refused: <b>no</b> pictures"
    assert facts_of(deployment) == findings.flags


def test_what_stayed_unknown_leaves_what_was_known(deployment: Deployment, model: Model) -> None:
    measure(deployment, key="k")
    model.says = {"tools": (503, {"error": {"message": "busy"}}), "stream": completion("no")}
    findings = measure(deployment, key="k")
    assert findings.stopped
    assert "tools" not in findings.flags
    deployment.refresh_from_db()
    assert deployment.measured_capabilities["tools"] is True
    assert deployment.measured_capabilities["vision"] is False


def test_a_probe_that_found_out_nothing_changes_nothing(
    deployment: Deployment, model: Model
) -> None:
    measure(deployment, key="k")
    before = Deployment.objects.values().get()
    model.says = {"plain": (503, {"error": {"message": "down"}})}
    assert measure(deployment, key="k").stopped == "down"
    assert Deployment.objects.values().get() == before


def test_the_operators_word_is_above_a_measurement(deployment: Deployment) -> None:
    deployment.capabilities = {"vision": True, "tools": False}
    deployment.save()
    measure(deployment, key="k")
    loaded = snapshot.load()
    target = loaded.target("lab", "m")
    merged = snapshot.capabilities_of(target)
    assert (merged.vision, merged.tools, merged.json_mode) == (True, False, True)
    deployment.refresh_from_db()
    assert deployment.capabilities == {"vision": True, "tools": False}


def test_a_measurement_is_of_one_address(deployment: Deployment) -> None:
    measure(deployment, key="k")
    provider = deployment.provider
    address = provider.base_url
    Provider.objects.update(base_url="http://127.0.0.1:9/v1")
    assert facts_of(deployment) == {}
    Provider.objects.update(base_url=address)
    assert facts_of(deployment)["tools"] is True


def test_a_new_measurement_elsewhere_takes_the_place_of_the_old(
    deployment: Deployment, scripted: Upstream, model: Model
) -> None:
    measure(deployment, key="k")
    with scripted_upstream(model.play) as elsewhere:
        Provider.objects.update(base_url=elsewhere.base_url)
        deployment.provider.refresh_from_db()
        model.says = {"system": (503, {"error": {"message": "busy"}})}
        measure(deployment, key="k")
    deployment.refresh_from_db()
    assert set(deployment.measured_capabilities) == {"streaming", "streaming_usage"}
    assert set(deployment.measured_evidence) == {"streaming", "streaming_usage"}


def test_only_the_measurement_is_written(deployment: Deployment) -> None:
    stale = Deployment.objects.select_related("provider").get()
    Deployment.objects.update(enabled=False, context_window=5, capabilities={"audio": False})
    measure(stale, key="k")
    row = Deployment.objects.get()
    assert (row.enabled, row.context_window, row.capabilities) == (False, 5, {"audio": False})
    assert row.measured_capabilities


def test_a_deployment_deleted_meanwhile_is_not_made_again(deployment: Deployment) -> None:
    gone = Deployment.objects.select_related("provider").get()
    Deployment.objects.all().delete()
    measure(gone, key="k")
    assert not Deployment.objects.exists()


def test_the_history_says_why_the_row_changed(deployment: Deployment) -> None:
    measure(deployment, key="k")
    assert deployment.history.first().history_change_reason == "The capabilities were measured."


def test_a_measurement_raises_the_revision(deployment: Deployment) -> None:
    before = snapshot.read_revision()
    measure(deployment, key="k")
    assert snapshot.read_revision() > before


def test_a_provider_that_is_not_set_up_is_not_asked(deployment: Deployment, model: Model) -> None:
    Provider.objects.update(api_key="gAAAAAB-not-ours")
    deployment.provider.refresh_from_db()
    findings = measure(deployment, key="k")
    assert "another secret key" in (findings.stopped or "")
    assert model.bodies == []


def test_odd_flags_in_the_column_do_no_harm(deployment: Deployment) -> None:
    place = deployment.upstream(deployment.provider.base_url)
    for odd in ({"telepathy": True, "tools": "yes", "vision": False}, ["tools"], 5, {}):
        Deployment.objects.update(measured_capabilities=odd, measured_upstream=place)
        merged = snapshot.capabilities_of(snapshot.load().target("lab", "m"))
        assert merged.tools


# --- the ledger ---------------------------------------------------------------------------------


def test_every_request_is_in_the_ledger(deployment: Deployment) -> None:
    findings = measure(deployment, key="staff:ada")
    rows = list(UsageRecord.objects.all())
    assert len(rows) == len(findings.asked)
    assert {row.key for row in rows} == {"staff:ada"}
    assert {(row.model, row.provider, row.endpoint) for row in rows} == {("lab/m", "lab", "probe")}
    assert len({row.request_id for row in rows}) == 1
    assert sum(row.tokens_input for row in rows) >= 9 * 8
    assert [row.status for row in rows if row.status != "success"] == ["error"] * len(
        [each for each in findings.asked if each.error]
    )


# --- the pages ----------------------------------------------------------------------------------


def test_the_action_says_what_it_costs_before_it_asks(
    admin_client: Client, deployment: Deployment, model: Model
) -> None:
    page = admin_client.get(path_of(deployment)).content.decode()
    assert "22 at most" in page
    assert "up to 3 minutes" in page
    assert model.bodies == []


def test_the_action_shows_what_it_found_escaped(
    admin_client: Client, deployment: Deployment
) -> None:
    page = admin_client.post(path_of(deployment), SUBMITTED).content.decode()
    assert "Tools: yes" in page
    assert "Vision: no" in page
    assert "&lt;b&gt;no&lt;/b&gt; pictures" in page
    assert "<b>no</b>" not in page
    assert CANARY not in page


def test_the_page_of_a_deployment_shows_what_was_measured(
    admin_client: Client, deployment: Deployment
) -> None:
    page = f"{LIST}{deployment.pk}/change/"
    assert "never" in admin_client.get(page).content.decode()
    measure(deployment, key="k")
    shown = admin_client.get(page).content.decode()
    assert "Vision: no" in shown
    assert "&lt;b&gt;no&lt;/b&gt; pictures" in shown
    Provider.objects.update(base_url="http://127.0.0.1:9/v1")
    assert "not in force" in admin_client.get(page).content.decode()


def test_saving_the_form_keeps_what_was_measured(
    admin_client: Client, deployment: Deployment
) -> None:
    measure(deployment, key="k")
    before = Deployment.objects.get().measured_capabilities
    posted = {
        "provider": str(deployment.provider_id),
        "model": "m",
        "enabled": "on",
        "context_window": "4096",
        "prices-TOTAL_FORMS": "0",
        "prices-INITIAL_FORMS": "0",
        "measured_capabilities": json.dumps({"tools": False}),
    }
    answer = admin_client.post(f"{LIST}{deployment.pk}/change/", posted)
    assert answer.status_code == 302
    row = Deployment.objects.get()
    assert (row.context_window, row.measured_capabilities) == (4096, before)


def test_a_failure_is_shown_with_what_was_found_before_it(
    admin_client: Client, deployment: Deployment, model: Model
) -> None:
    model.says = {"tools": (503, {"error": {"message": "busy"}})}
    page = admin_client.post(path_of(deployment), SUBMITTED).content.decode()
    assert "Not everything was asked." in page
    assert "At tools: busy" in page
    assert "Streaming: yes" in page


def test_several_deployments_are_measured_from_the_list(
    admin_client: Client, deployment: Deployment
) -> None:
    other = Deployment.objects.create(provider=deployment.provider, model="n")
    posted = {"action": "measure_selected", "_selected_action": [deployment.pk, other.pk]}
    response = admin_client.post(LIST, posted, follow=True)
    told = [str(message) for message in response.context["messages"]]
    assert [text.split()[0] for text in told] == ["lab/m", "lab/n"]
    assert "cannot: Vision" in told[0]
    assert all(row.measured_capabilities for row in Deployment.objects.all())


def test_no_more_are_measured_at_once_than_somebody_waits_for(
    admin_client: Client, deployment: Deployment, model: Model
) -> None:
    rows = [
        Deployment.objects.create(provider=deployment.provider, model=f"m{n}").pk for n in range(4)
    ]
    posted = {"action": "measure_selected", "_selected_action": rows}
    response = admin_client.post(LIST, posted, follow=True)
    assert [str(each) for each in response.context["messages"]] == ["Select 3 at most."]
    assert model.bodies == []


def test_measuring_needs_the_right_to_change_deployments(
    client_with: ClientWith, deployment: Deployment, model: Model
) -> None:
    reader = client_with("providers.view_deployment")
    assert reader.post(path_of(deployment), SUBMITTED).status_code == 403
    reader.post(LIST, {"action": "measure_selected", "_selected_action": [deployment.pk]})
    assert model.bodies == []
    assert reader.get(f"{LIST}{deployment.pk}/change/").status_code == 200


def test_measuring_needs_a_csrf_token(
    admin_user: Any, deployment: Deployment, model: Model
) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(path_of(deployment), SUBMITTED).status_code == 403
    assert model.bodies == []


def test_findings_are_told_in_a_sentence(db: None) -> None:
    from providers.admin import describe_findings

    row = Deployment(provider=Provider(name="lab"), model="m")
    findings = Findings(flags={"tools": True, "json_mode": False}, stopped="It is down.")
    assert describe_findings(row, findings) == (
        "lab/m can: Tools; cannot: JSON mode; not everything was asked. It is down."
    )
