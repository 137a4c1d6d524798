"""The lock files install what was reviewed, from whichever index the reader's pip is set to."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def entries(lock: Path) -> list[str]:
    """A lock's logical lines: one requirement with its hashes each."""
    joined = lock.read_text().replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def versions(lock: str) -> set[str]:
    return {line.split()[0] for line in entries(ROOT / "requirements" / f"{lock}.txt")}


def locked_names(lock: str) -> set[str]:
    lines = entries(ROOT / "requirements" / f"{lock}.txt")
    return {Requirement(re.split(r"\s+--hash", line)[0]).name.lower() for line in lines}


def wanted_names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name.lower() for line in requirements}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_locked_package_has_one_version_and_a_hash(lock: Path) -> None:
    shape = re.compile(r"[a-z0-9-]+==[^\s;]+(\s*;[^#]*?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert [line for line in entries(lock) if not shape.fullmatch(line)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_address_and_no_path(lock: Path) -> None:
    assert re.findall(r"\S*(?:://|(?<!\w)/\w|--index|--find-links)\S*", lock.read_text()) == []


def test_every_runtime_dependency_is_locked() -> None:
    assert wanted_names(PROJECT["project"]["dependencies"]) <= locked_names("runtime")


def test_every_local_model_dependency_is_locked() -> None:
    extra = PROJECT["project"]["optional-dependencies"]["local"]
    assert wanted_names(extra) == locked_names("local")


@pytest.mark.parametrize("group", ["bench", "build", "dev"])
def test_every_development_dependency_is_locked(group: str) -> None:
    assert wanted_names(PROJECT["dependency-groups"][group]) <= locked_names(group)


def test_development_runs_on_the_versions_that_are_shipped() -> None:
    assert versions("runtime") <= versions("dev")
