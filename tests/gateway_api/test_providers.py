"""`GET /v1/providers`, `GET /v1/providers/{name}/models` and `GET /v1/models`."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest

from providers import discovery, snapshot
from providers.models import Deployment, Price, Route, RouteTarget
from tests.gateway_api.conftest import CANARY, Ask, make_key, make_provider
from tests.recorded_lists import RECORDED
from tests.upstream import Asked, Peer, Script, Upstream, scripted_upstream, silence


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


def answering(status: int, body: Any, after_s: float = 0.0) -> Script:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(asked: Asked, peer: Peer) -> None:
        await asyncio.sleep(after_s)
        peer.answer(status, raw)

    return script


def offering(*models: str | dict[str, Any]) -> Script:
    entries = [{"id": each} if isinstance(each, str) else each for each in models]
    return answering(200, {"data": entries})


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def shown(ask: Ask, *, key: str = "admin", path: str = "/v1/providers") -> dict[str, Any]:
    answer = ask("GET", path, key=key)
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()["providers"]}


# --- /v1/providers ------------------------------------------------------------------------------


def test_a_provider_that_answers_has_the_contracts_shape(ask: Ask, upstream: Upstream) -> None:
    make_provider("lab", upstream.base_url)
    provider = shown(ask)["lab"]
    assert datetime.fromisoformat(provider.pop("last_check")).tzinfo is not None
    assert 0 <= provider.pop("latency_ms") < 5000
    assert provider == {
        "name": "lab",
        "kind": "openai-compatible",
        "status": "healthy",
        "models": ["gpt-4o-mini", "gpt-4o"],
        "model_count": 2,
        "capabilities": {
            "tools": True,
            "vision": True,
            "streaming": True,
            "structured_output": True,
            "embeddings": False,
        },
        "error": None,
    }


def test_ten_models_are_shown_and_all_counted(ask: Ask, upstream: Upstream) -> None:
    upstream.listing = offering(*(f"m{number}" for number in range(25)))
    make_provider("lab", upstream.base_url)
    provider = shown(ask)["lab"]
    assert (provider["models"], provider["model_count"]) == ([f"m{n}" for n in range(10)], 25)


def test_a_provider_that_is_down_is_shown_with_its_reason(ask: Ask) -> None:
    make_provider("lab", f"http://127.0.0.1:{closed_port()}/v1")
    provider = shown(ask)["lab"]
    assert provider["status"] == "unavailable"
    assert provider["error"] == "The upstream cannot be reached."
    assert (provider["models"], provider["model_count"]) == ([], 0)
    assert provider["last_check"]


@pytest.mark.parametrize(
    ("status", "shown_as"),
    [(401, "unavailable"), (500, "unavailable"), (503, "unavailable")]
    + [(404, "degraded"), (405, "degraded"), (429, "degraded"), (501, "degraded")],
)
def test_what_an_upstream_answers_is_its_status(
    ask: Ask, upstream: Upstream, status: int, shown_as: str
) -> None:
    upstream.listing = answering(status, {"error": {"message": "no"}})
    make_provider("lab", upstream.base_url)
    provider = shown(ask)["lab"]
    assert (provider["status"], bool(provider["error"])) == (shown_as, True)


def test_providers_that_are_off_or_not_set_up_are_shown_and_not_asked(
    ask: Ask, upstream: Upstream
) -> None:
    make_provider("off", upstream.base_url, enabled=False)
    make_provider("keyless", upstream.base_url, kind="openai", api_key="")
    make_provider("strange", upstream.base_url, kind="smoke-signals")
    found = shown(ask)
    assert {name: each["status"] for name, each in found.items()} == {
        "off": "disabled",
        "keyless": "not_configured",
        "strange": "not_configured",
    }
    assert found["off"]["error"] == "It is switched off."
    assert found["keyless"]["error"] == "No credential: set its API key."
    assert "no adapter" in found["strange"]["error"]
    assert not any(found["strange"]["capabilities"].values())
    for provider in found.values():
        assert (provider["models"], provider["latency_ms"], provider["last_check"]) == (
            [],
            None,
            None,
        )
    assert upstream.listings == 0


def test_a_key_sees_every_provider_and_only_its_models(ask: Ask, upstream: Upstream) -> None:
    make_key("narrow", allowed_models=["lab/gpt-4o"])
    make_provider("lab", upstream.base_url)
    make_provider("other", upstream.base_url)
    found = shown(ask, key="narrow")
    assert {name: each["models"] for name, each in found.items()} == {
        "lab": ["gpt-4o"],
        "other": [],
    }
    assert found["other"]["model_count"] == 0
    assert found["other"]["status"] == "healthy"
    assert shown(ask)["other"]["model_count"] == 2


def test_an_upstreams_own_words_are_for_administrators(ask: Ask, upstream: Upstream) -> None:
    """M42."""
    told = f"account 4711 of gpu-7.corp.example, {CANARY}, {upstream.base_url}"
    upstream.listing = answering(429, {"error": {"message": told}})
    make_provider("lab", upstream.base_url)
    to_user, to_admin = shown(ask, key="user")["lab"], shown(ask)["lab"]
    assert to_user["error"] == "The provider's rate limit was reached."
    assert "account 4711" in to_admin["error"]
    for text in (to_user["error"], to_admin["error"]):
        assert CANARY not in text
        assert str(upstream.port) not in text


def test_an_ordinary_key_learns_no_variable_of_the_operators(ask: Ask) -> None:
    make_provider("openai", "", kind="openai", api_key="", api_key_env="SECRET_OF_TEAM_X")
    assert shown(ask, key="user")["openai"]["error"] == "It is not set up."
    assert "SECRET_OF_TEAM_X" in shown(ask)["openai"]["error"]


def test_a_hanging_provider_delays_nobody_beyond_its_own_time(
    ask: Ask, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LIST_TIMEOUT_S", 0.3)
    make_provider("lab", upstream.base_url)
    with scripted_upstream(silence) as hanging:
        hanging.listing = silence
        make_provider("stuck", hanging.base_url)
        make_provider("stuck-too", hanging.base_url)
        started = time.monotonic()
        found = shown(ask)
        assert time.monotonic() - started < 2
        assert found["lab"]["status"] == "healthy"
        assert found["stuck"]["status"] == found["stuck-too"]["status"] == "unavailable"
        started = time.monotonic()
        shown(ask)
        assert time.monotonic() - started < 0.3  # remembered


def test_only_an_admin_has_the_providers_asked_anew(ask: Ask, upstream: Upstream) -> None:
    make_provider("lab", upstream.base_url)
    paths = ("/v1/providers", "/v1/providers/lab/models", "/v1/models", "/v1/models/lab/gpt-4o")
    for path in paths:
        assert ask("GET", f"{path}?refresh=1", key="user").status_code == 200
    assert upstream.listings == 1
    for path in paths:
        assert ask("GET", f"{path}?refresh=1", key="admin").status_code == 200
    assert upstream.listings == 1 + len(paths)


@pytest.mark.parametrize("path", ["/v1/providers", "/v1/models", "/v1/providers/lab/models"])
def test_a_refresh_that_is_none_is_refused(ask: Ask, upstream: Upstream, path: str) -> None:
    make_provider("lab", upstream.base_url)
    answer = ask("GET", f"{path}?refresh=please", key="admin")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "refresh")


def test_a_change_of_the_provider_shows_at_once(ask: Ask, upstream: Upstream) -> None:
    row = make_provider("lab", f"http://127.0.0.1:{closed_port()}/v1")
    assert shown(ask)["lab"]["status"] == "unavailable"
    row.base_url = upstream.base_url
    row.save()
    assert shown(ask)["lab"]["status"] == "healthy"


def test_capabilities_are_those_of_the_models(ask: Ask, upstream: Upstream) -> None:
    upstream.listing = offering("text-embedding-3-small")
    make_provider("lab", upstream.base_url)
    assert shown(ask)["lab"]["capabilities"] == {
        "tools": False,
        "vision": False,
        "streaming": False,
        "structured_output": False,
        "embeddings": True,
    }


@pytest.mark.parametrize(
    "path", ["/v1/providers", "/v1/providers/lab/models", "/v1/models", "/v1/models/lab/m"]
)
def test_nobody_without_a_key_sees_providers(ask: Ask, path: str) -> None:
    assert ask("GET", path, key=None).status_code == 401


@pytest.mark.parametrize("path", ["/v1/providers", "/v1/providers/lab/models", "/v1/models"])
def test_before_the_configuration_was_read_nothing_is_said_about_it(
    ask: Ask, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "load", lambda: snapshot.EMPTY)
    answer = ask("GET", path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"]


# --- /v1/providers/{name}/models ----------------------------------------------------------------


def test_the_models_of_a_provider_are_all_there(ask: Ask, upstream: Upstream) -> None:
    upstream.listing = offering(*(f"m{number}" for number in range(25)))
    row = make_provider("lab", upstream.base_url)
    Deployment.objects.create(provider=row, model="unlisted")
    Deployment.objects.create(provider=row, model="m3", enabled=False)
    answer = ask("GET", "/v1/providers/lab/models").json()
    models = [f"m{number}" for number in range(25) if number != 3] + ["unlisted"]
    assert answer == {"provider": "lab", "models": models, "count": 25}


def test_a_key_is_told_its_own_models_only(ask: Ask, upstream: Upstream) -> None:
    make_key("narrow", allowed_models=["lab/gpt-4o", "smart"])
    make_provider("lab", upstream.base_url)
    answer = ask("GET", "/v1/providers/lab/models", key="narrow").json()
    assert answer == {"provider": "lab", "models": ["gpt-4o"], "count": 1}


def test_an_unknown_provider_is_not_found(ask: Ask) -> None:
    answer = ask("GET", "/v1/providers/nobody/models")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "provider_not_found"


def test_models_that_cannot_be_listed_are_a_502_with_the_cause(ask: Ask) -> None:
    make_provider("lab", f"http://127.0.0.1:{closed_port()}/v1")
    answer = ask("GET", "/v1/providers/lab/models")
    assert answer.status_code == 502
    assert answer.json()["error"] == {
        "message": "The models of 'lab' cannot be listed. The provider cannot be reached.",
        "type": "upstream_error",
        "param": None,
        "code": "provider_unavailable",
    }


def test_a_silent_provider_is_a_502_too(
    ask: Ask, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LIST_TIMEOUT_S", 0.2)
    upstream.listing = silence
    make_provider("lab", upstream.base_url)
    answer = ask("GET", "/v1/providers/lab/models", key="admin")
    assert answer.status_code == 502
    assert "No answer within 0.2 s." in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "code", "cause"),
    [
        ({"enabled": False}, "provider_disabled", "It is switched off."),
        ({"kind": "openai", "api_key": ""}, "provider_not_configured", "No credential"),
        ({"kind": "smoke-signals"}, "provider_not_configured", "no adapter"),
    ],
)
def test_a_provider_that_cannot_be_asked_is_a_502_not_worth_trying_again(
    ask: Ask, upstream: Upstream, fields: dict[str, Any], code: str, cause: str
) -> None:
    make_provider("lab", upstream.base_url, **fields)
    answer = ask("GET", "/v1/providers/lab/models", key="admin")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, code)
    assert cause in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_providers_are_only_read_here(ask: Ask, method: str) -> None:
    answer = ask(method, "/v1/providers")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


# --- /v1/models ---------------------------------------------------------------------------------


def test_a_model_tells_what_is_known_of_it(ask: Ask, upstream: Upstream) -> None:
    upstream.listing = offering(
        {"id": "qwen3", "created": 7, "owned_by": "us", "max_model_len": 32768}
    )
    row = make_provider("lab", upstream.base_url)
    deployment = Deployment.objects.create(
        provider=row, model="qwen3", capabilities={"audio": False}
    )
    deployment.keep_measurement(
        {"tools": False, "audio": True}, {}, deployment.upstream(row.base_url)
    )
    deployment.save()
    Price.objects.create(
        deployment=deployment, valid_from="2026-01-01T00:00:00Z", input="0.5", output="1.5"
    )
    model = ask("GET", "/v1/models/lab/qwen3").json()
    assert (model["id"], model["created"], model["owned_by"]) == ("lab/qwen3", 7, "us")
    assert model["context_window"] == 32768
    assert (model["pricing"]["input"], model["pricing"]["output"]) == ("0.5", "1.5")
    assert not model["capabilities"]["tools"]  # measured
    assert not model["capabilities"]["audio"]  # the operator's word, above what was measured
    assert model["capabilities"]["vision"]
    assert ask("GET", "/v1/models").json() == {"object": "list", "data": [model]}


def test_a_measurement_of_another_address_does_not_count(ask: Ask, upstream: Upstream) -> None:
    row = make_provider("lab", upstream.base_url)
    deployment = Deployment.objects.create(provider=row, model="gpt-4o")
    elsewhere = deployment.upstream("http://127.0.0.1:9/v1")
    deployment.keep_measurement({"tools": False}, {}, elsewhere)
    deployment.save()
    assert ask("GET", "/v1/models/lab/gpt-4o").json()["capabilities"]["tools"]


def test_a_route_can_do_what_all_its_targets_can(ask: Ask, upstream: Upstream) -> None:
    upstream.listing = offering(
        {"id": "a", "context_length": 8000}, {"id": "b", "context_length": 4000}
    )
    row = make_provider("lab", upstream.base_url)
    route = Route.objects.create(name="smart")
    for position, (model, flags) in enumerate((("a", {"tools": False}), ("b", {"audio": False}))):
        target = Deployment.objects.create(provider=row, model=model, capabilities=flags)
        RouteTarget.objects.create(route=route, deployment=target, position=position)
    discovery.forget()
    ask("GET", "/v1/models")
    model = ask("GET", "/v1/models/smart").json()
    assert (model["owned_by"], model["targets"]) == ("route", ["lab/a", "lab/b"])
    assert model["context_window"] == 4000
    assert not model["capabilities"]["tools"]
    assert not model["capabilities"]["audio"]
    assert model["capabilities"]["vision"]
    assert model["pricing"] is None


def test_one_model_is_found_without_asking_the_other_providers(
    ask: Ask, upstream: Upstream
) -> None:
    make_provider("lab", upstream.base_url)
    with scripted_upstream(silence) as other:
        make_provider("other", other.base_url)
        assert ask("GET", "/v1/models/lab/gpt-4o").json()["id"] == "lab/gpt-4o"
        assert (upstream.listings, other.listings) == (1, 0)


def test_a_model_the_key_may_not_use_does_not_exist(ask: Ask, upstream: Upstream) -> None:
    make_key("narrow", allowed_models=["lab/gpt-4o"])
    make_provider("lab", upstream.base_url)
    forbidden = ask("GET", "/v1/models/lab/gpt-4o-mini", key="narrow")
    missing = ask("GET", "/v1/models/lab/gpt-5o-mini", key="narrow")
    assert forbidden.status_code == missing.status_code == 404
    assert forbidden.text.replace("gpt-4o-mini", "gpt-5o-mini") == missing.text


def test_models_of_a_provider_that_went_away_stay_listed(ask: Ask, upstream: Upstream) -> None:
    make_provider("lab", upstream.base_url)
    ask("GET", "/v1/models")
    upstream.listing = answering(500, b"")
    models = ask("GET", "/v1/models?refresh=1", key="admin").json()["data"]
    assert [each["id"] for each in models] == ["lab/gpt-4o-mini", "lab/gpt-4o"]
    provider = shown(ask)["lab"]
    assert (provider["status"], provider["model_count"]) == ("unavailable", 2)


@pytest.mark.skipif(not RECORDED, reason="the recorded interactions are not here")
@pytest.mark.parametrize(("provider", "body"), RECORDED, ids=[name for name, _ in RECORDED])
def test_every_model_of_a_recorded_list_is_listed_and_found(
    ask: Ask, upstream: Upstream, provider: str, body: Any
) -> None:
    upstream.listing = answering(200, body)
    make_provider("lab", upstream.base_url)
    listed = ask("GET", "/v1/models").json()["data"]
    assert [each["id"] for each in listed] == [f"lab/{each['id']}" for each in body["data"]]
    for model in listed[:20]:
        found = ask("GET", f"/v1/models/{quote(model['id'])}")
        assert found.json() == model
    assert upstream.listings == 1
    names = ask("GET", "/v1/providers/lab/models").json()
    assert names["models"] == [each["id"] for each in body["data"]]
