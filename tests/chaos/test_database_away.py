"""A database that goes away and comes back, on Postgres."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from django.conf import settings

from tests.chaos.outage import taken_away
from tests.events_app.stage import listening
from tests.gateway import Gateway, running_gateway, wait_until
from tests.upstream import completion, scripted_upstream, whole

pytestmark = pytest.mark.skipif(
    "postgresql" not in settings.DATABASES["default"]["ENGINE"],
    reason="a file does not go away as a server does",
)
AWAY_S = 16.0
BACK_WITHIN_S = 6.0
UNKNOWN = "gw-unknown-0123456789abcdef0123456789abcdef"


def status_of_an_unknown_key(gateway: Gateway) -> int:
    """503 while the database is away, 401 once it has been asked."""
    headers = {"x-api-key": UNKNOWN}
    return gateway.call("GET", "/v1/models", headers=headers).status


def test_a_database_that_was_away_long_is_used_again_soon(
    tmp_path: Path, spare_database_url: str
) -> None:
    with (
        scripted_upstream(whole(200, completion())) as upstream,
        running_gateway(tmp_path, spare_database_url, upstream.base_url) as gateway,
    ):
        with taken_away(spare_database_url):
            until = time.monotonic() + AWAY_S
            while time.monotonic() < until:
                assert status_of_an_unknown_key(gateway) == 503
                time.sleep(0.5)
        wait_until(lambda: status_of_an_unknown_key(gateway) == 401, seconds=BACK_WITHIN_S)


def test_an_open_stream_of_events_goes_on_when_the_database_is_back(
    tmp_path: Path, spare_database_url: str
) -> None:
    asked = {"model": "smart", "messages": [{"role": "user", "content": "Say hello."}]}
    with (
        scripted_upstream(whole(200, completion())) as upstream,
        running_gateway(tmp_path, spare_database_url, upstream.base_url) as gateway,
        listening(gateway) as listener,
    ):
        gateway.chat(asked)
        listener.wait_for(2)
        with taken_away(spare_database_url):
            wait_until(lambda: "Live events wait" in gateway.log, seconds=10)
            assert gateway.chat(asked).status == 200
            with listening(gateway) as late:
                assert late.status == 503
            assert not listener.has_ended
        heard = listener.wait_for(4, seconds=15)
        assert [each.type for each in heard] == ["generation_started", "generation_completed"] * 2
        assert gateway.log.count("Live events wait") == 1
