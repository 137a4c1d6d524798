"""The wheel holds the whole product and runs where no checkout is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "chat",
    "events_app",
    "gateway_api",
    "gateway_site",
    "keys",
    "providers",
    "sessions_app",
    "tools_app",
    "usage",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for site-packages; nothing in it points back to the checkout."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that was started from the wheel in an empty folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "ABSTRACTCORE_DATA_DIR": str(folder / "data"),
    }
    port = free_port()
    main = "import sys; from gateway_site.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", main, "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
    finally:
        process.terminate()
        process.wait(20)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/livez", timeout=5).close()
            return address
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the server did not come up:\n{log.read_text()}", pytrace=False)


def test_the_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    packages = tuple(f"{name}/" for name in PACKAGES)
    missing = [
        path for path in tracked if path.startswith(packages) and not (installed / path).exists()
    ]
    assert missing == []


def test_the_wheel_holds_migrations_of_every_app_with_models(installed: Path) -> None:
    for app in ("events_app", "keys", "providers", "sessions_app", "tools_app", "usage"):
        assert list((installed / app / "migrations").glob("0001_*.py")), app


def test_the_wheel_holds_the_templates_inside_our_package(installed: Path) -> None:
    ours = {path.relative_to(ROOT / "templates") for path in (ROOT / "templates").rglob("*.html")}
    there = installed / "gateway_site" / "templates"
    assert ours
    assert {path.relative_to(there) for path in there.rglob("*.html")} == ours


def test_the_wheel_holds_nothing_beside_the_product(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == set(PACKAGES)


def test_the_code_comes_from_the_wheel_and_not_from_the_checkout(installed: Path) -> None:
    probe = "import gateway_site, chat; print(gateway_site.__file__, chat.__file__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", probe],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)},
        cwd=installed.parent,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert all(Path(file).is_relative_to(installed) for file in found)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/docs", "/admin/login/"])
def test_a_server_from_the_wheel_answers(server: str, path: str) -> None:
    status, body = get(f"{server}{path}")
    assert (status, bool(body)) == (200, True)
