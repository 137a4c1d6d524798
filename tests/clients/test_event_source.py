"""The browser's own `EventSource`: a signed-in member of staff looks at what happens."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_or_skip
from tests.events_app.stage import admin_password, ids_in_table, insert_rows
from tests.gateway import Gateway, configuration, wait_until
from tests.scripted_model import call
from tests.tool_loop.stage import answers, calling
from tests.tools_app.stage import CITY
from tests.upstream import completion, scripted_upstream, whole

pytestmark = pytest.mark.once

PAGE = Path(__file__).with_name("event_source.mjs")
PACKAGE = "playwright-core@^1"
TYPES = ("generation_started", "tool_started", "tool_completed", "generation_completed")
ASKED = {
    "model": "smart",
    "messages": [{"role": "user", "content": "How is it in Paris?"}],
    "tools": ["get_weather"],
    "tool_execution": "server",
}


class Browser:
    """What happened in the page, as it says so."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.said: list[dict[str, Any]] = []
        self._process = process
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    def wait_for(self, happened: str, times: int = 1) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            return [each for each in self.said if each["happened"] == happened]

        wait_until(
            lambda: len(found()) >= times,
            seconds=20,
            why=lambda: f"{happened} expected: {self.said}",
        )
        return found()

    @property
    def heard(self) -> list[dict[str, Any]]:
        return [each for each in self.said if "id" in each]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with our page and what drives it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        require_or_skip("there is no node with npm")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        require_or_skip(f"npm cannot install {PACKAGE}: {done.stderr[-500:]}")
    shutil.copy(PAGE, tmp_path)
    return tmp_path


@contextmanager
def browsing(gateway: Gateway, folder: Path) -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        require_or_skip("there is no chromium")
    command = ["node", PAGE.name, gateway.url, chromium, admin_password(gateway), *TYPES]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        try:
            yield Browser(process)
            process.stdin.close()
            process.wait(20)
        finally:
            process.kill()


@pytest.fixture
def served(folder: Path, spare_database_url: str) -> Iterator[Gateway]:
    """A gateway with a priced model that calls a tool, which the gateway runs."""
    model = answers(calling(call("Paris")), completion("It is sunny."))
    with (
        scripted_upstream(model) as upstream,
        scripted_upstream(whole(200, {"weather": "sunny"})) as tool,
    ):
        found = configuration(upstream.base_url)
        (route,) = found["routes"]
        price = {"input": 0.15, "output": 0.60}
        found["deployments"] = [{**target, "price": price} for target in route["targets"]]
        url = f"http://127.0.0.1:{tool.port}/weather"
        found["tools"] = [{"name": "get_weather", "kind": "http", "url": url, "parameters": CITY}]
        gateway = Gateway(folder, spare_database_url)
        gateway.environment["ABSTRACTCORE_OUTBOUND_ALLOW"] = "127.0.0.0/8"
        gateway.apply(found)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def test_a_browser_hears_what_happens_and_misses_nothing_of_a_restart(
    served: Gateway, folder: Path
) -> None:
    with browsing(served, folder) as browser:
        browser.wait_for("open")
        answered = served.chat(ASKED)
        assert answered.json()["choices"][0]["message"]["content"] == "It is sunny."
        (completed,) = browser.wait_for("generation_completed")
        assert [each["happened"] for each in browser.heard] == list(TYPES)
        started, tool_started, tool_completed, _ = (each["data"] for each in browser.heard)
        assert started["model"] == completed["data"]["model"] == "smart"
        assert tool_started["tool_name"] == tool_completed["tool_name"] == "get_weather"
        assert completed["data"]["tokens_output"] == 6
        assert completed["data"]["cost_usd"] == pytest.approx((18 * 0.15 + 6 * 0.60) / 1e6)

        port = served.port
        served.stop()
        insert_rows(served, 3, request_id="while it was away")
        served.start(port=port)
        browser.wait_for("open", 2)
        insert_rows(served, 1, request_id="live again")
        browser.wait_for("tool_started", 5)
    types = ", ".join(f"'{type_}'" for type_ in TYPES)
    assert [each["id"] for each in browser.heard] == ids_in_table(served, f"type IN ({types})")
    assert {each["happened"] for each in browser.said} == {"open", *TYPES}
