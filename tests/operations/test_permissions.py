"""Who may ask for status and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import RequestFactory

from keys.addresses import is_from
from providers.outbound import parse_networks
from tests.conftest import spare_database
from tests.gateway import KEY, Gateway, wait_until
from tests.operations.accounts import samples, status, total
from tests.operations.mixed import ADMIN, configured
from tests.upstream import completion, scripted_upstream, whole

PROXIES = parse_networks("10.0.0.0/30, fd00::/64")
ALLOWED = parse_networks("192.0.2.0/24, 10.0.0.0/24")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Takes metrics' readers from 192.0.2.0/24, and a proxy's word on this machine."""
    folder: Path = tmp_path_factory.mktemp("asked")
    with scripted_upstream(whole(200, completion())) as upstream, spare_database(folder) as url:
        gateway = Gateway(folder, url)
        found = configured(upstream.base_url)
        found["keys"].append({"name": "slow", "secret": KEY + "-slow", "rpm": 1})
        gateway.environment = {
            "ABSTRACTCORE_METRICS_ALLOW": "192.0.2.0/24",
            "ABSTRACTCORE_TRUSTED_PROXIES": "127.0.0.1",
        }
        gateway.apply(found)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v1/status", {}, 401),
        ("/v1/status", {"authorization": "Bearer gw-wrong"}, 401),
        ("/v1/status", {"authorization": f"Bearer {KEY}"}, 200),
        ("/v1/status", {"x-api-key": ADMIN}, 200),
        ("/v1/status", {"x-forwarded-for": "192.0.2.7"}, 401),
        ("/metrics", {}, 401),
        ("/metrics", {"authorization": f"Bearer {KEY}"}, 403),
        ("/metrics", {"authorization": f"Bearer {ADMIN}"}, 200),
        ("/metrics", {"x-forwarded-for": "192.0.2.7"}, 200),
        ("/metrics", {"x-forwarded-for": "198.51.100.1, 192.0.2.7"}, 200),
        ("/metrics", {"x-forwarded-for": "192.0.2.7, 198.51.100.1"}, 401),
        ("/metrics", {"x-forwarded-for": "192.0.2.7, nonsense"}, 401),
        ("/metrics", {"forwarded": "for=192.0.2.7"}, 401),
        ("/metrics", {"x-real-ip": "192.0.2.7"}, 401),
    ],
)
def test_each_is_for_whom_it_is_for(
    asked: Gateway, path: str, headers: dict[str, str], expected: int
) -> None:
    answered = asked.call("GET", path, headers=headers)
    assert answered.status == expected, answered.body
    if expected != 200:
        assert answered.json()["error"]["type"] in ("authentication_error", "permission_error")
    assert asked.call("HEAD", path, headers=headers).status == expected
    assert (
        asked.call("POST", path, b"{}", headers={"authorization": f"Bearer {ADMIN}"}).status == 405
    )


def test_only_admins_are_told_of_machines(asked: Gateway) -> None:
    (plain,), (detailed,) = status(asked, KEY)["workers"], status(asked)["workers"]
    assert set(plain) == {"id", "config_revision", "lag_ms"}
    assert {"host", "pid", "in_flight", "queue_depth", "started_at"} <= set(detailed)
    assert plain["lag_ms"] == 0


def test_an_ordinary_key_is_told_its_own_cost(asked: Gateway) -> None:
    body = {"model": "smart", "messages": [{"role": "user", "content": "x"}]}
    asked.chat(body, x_request_id="mine")
    asked.chat(body, authorization=f"Bearer {ADMIN}", x_request_id="theirs")
    row = asked.usage_row("mine")
    asked.wait_for_rows(2)
    whole_day = float(status(asked)["cost_usd_today"])
    assert status(asked, KEY)["cost_usd_today"] == row["cost_usd"]
    assert whole_day == pytest.approx(2 * float(row["cost_usd"]))


def test_refusals_are_counted(asked: Gateway) -> None:
    before = samples(asked)
    for _ in range(3):
        asked.call("GET", "/v1/models")
    body = {"model": "smart", "messages": [{"role": "user", "content": "x"}]}
    for _ in range(3):
        asked.chat(body, authorization=f"Bearer {KEY}-slow")

    def counted(name: str) -> float:
        return total(samples(asked), name) - total(before, name)

    wait_until(lambda: counted("abstractcore_auth_failures_total") == 3, seconds=10)
    wait_until(lambda: counted("abstractcore_rate_limit_refusals_total") == 2, seconds=10)


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("192.0.2.1", {}, True),
        ("::ffff:192.0.2.1", {}, True),
        ("198.51.100.1", {}, False),
        ("", {}, False),
        ("192.0.2.1", {"x-forwarded-for": "192.0.2.2"}, False),
        ("192.0.2.1", {"via": "1.1 proxy"}, False),
        ("10.0.0.1", {}, True),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.1"}, False),
        ("10.0.0.1", {"x-forwarded-for": "192.0.2.9"}, True),
        ("10.0.0.1", {"x-forwarded-for": "192.0.2.9, 10.0.0.2"}, True),
        ("10.0.0.1", {"x-forwarded-for": ""}, False),
        ("10.0.0.1", {"x-forwarded-for": "192.0.2.9", "x-forwarded-proto": "https"}, True),
        ("10.0.0.1", {"x-forwarded-proto": "https"}, False),
        ("fd00::1", {"x-forwarded-for": "192.0.2.9"}, True),
    ],
)
def test_an_address_counts_only_where_it_is_known(
    settings: Any, peer: str, headers: dict[str, str], *, expected: bool
) -> None:
    """A proxy nobody told us of stands inside the network, and those it forwards need not."""
    settings.TRUSTED_PROXIES = PROXIES
    request = RequestFactory().get("/metrics", headers=headers, REMOTE_ADDR=peer)
    assert is_from(request, ALLOWED) is expected
