"""The container files say what an operator relies on; no engine is needed to read them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def installs() -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(r"pip (?:--python \S+ )?install ([^&|\n]*)", joined)


def test_the_image_installs_only_hashed_wheels_and_our_own() -> None:
    locked = [line for line in installs() if "--require-hashes" in line]
    assert all("--no-deps --only-binary=:all:" in line for line in locked)
    assert [line.strip() for line in installs() if line not in locked] == [
        "--no-deps --no-index /dist/*.whl"
    ]


def test_the_image_runs_without_root() -> None:
    assert re.search(r"^USER gateway$", FINAL_STAGE, re.M)


def test_the_image_keeps_its_state_on_a_volume() -> None:
    assert re.search(r"^VOLUME /data$", FINAL_STAGE, re.M)
    assert "ABSTRACTCORE_DATA_DIR=/data" in FINAL_STAGE


def test_the_image_is_healthy_when_livez_answers() -> None:
    assert re.search(r"^HEALTHCHECK .*\n.*127\.0\.0\.1:8000/livez", FINAL_STAGE, re.M)


def test_the_image_takes_only_what_the_wheel_is_made_of() -> None:
    ignore = (ROOT / ".dockerignore").read_text().split()
    contents = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    assert ignore[ignore.index("*") + 1] == "!chat"
    assert {line[1:] for line in ignore if line.startswith("!")} == contents | {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "requirements",
    }


def test_the_compose_image_carries_the_version_of_the_code() -> None:
    from gateway_site import __version__

    assert SERVICES["gateway"]["image"] == f"abstractcore-server:{__version__}"


def test_no_credential_stands_in_the_compose_file() -> None:
    secrets = re.compile(r"PASSWORD|SECRET|API_KEY")
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if secrets.search(name):
                assert value is None or re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)


def test_the_gateway_waits_for_healthy_services() -> None:
    for name, condition in SERVICES["gateway"]["depends_on"].items():
        assert condition == {"condition": "service_healthy"}
        assert SERVICES[name]["healthcheck"]["test"]


def test_only_the_gateway_is_published_and_only_to_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"gateway": ["${ABSTRACTCORE_PUBLISH:-127.0.0.1:8000}:8000"]}


def test_ollama_comes_only_when_asked_for() -> None:
    assert SERVICES["ollama"]["profiles"] == ["ollama"]
    assert "ollama" not in SERVICES["gateway"]["depends_on"]


def test_every_named_volume_is_declared() -> None:
    used = {
        line.partition(":")[0] for each in SERVICES.values() for line in each.get("volumes", ())
    }
    assert used == set(COMPOSE["volumes"])
