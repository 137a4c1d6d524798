"""What the documentation says about names is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# Set by the command line for the processes it starts; not for people.
INTERNAL = {"ABSTRACTCORE_BOUND_HOST"}


def variables_read() -> set[str]:
    """Names of environment variables our packages read through the typed readers."""
    reader = re.compile(r'\benv\.\w+\(\s*"([A-Z][A-Z0-9_]+)"')
    sources = (path.read_text() for path in (ROOT / "gateway_site").rglob("*.py"))
    return {name for source in sources for name in reader.findall(source)}


def test_every_variable_that_is_read_is_documented() -> None:
    documented = (ROOT / "docs/configuration.md").read_text()
    assert {name for name in variables_read() - INTERNAL if f"`{name}`" not in documented} == set()


def test_every_documented_variable_of_ours_exists() -> None:
    code = "".join(
        path.read_text()
        for package in ("gateway_site", "keys", "providers", "usage", "gateway_api", "tools_app")
        for path in (ROOT / package).rglob("*.py")
    )
    documented = set(re.findall(r"ABSTRACTCORE_[A-Z_]+", "".join(p.read_text() for p in PAGES)))
    assert {name for name in documented if name not in code} == {
        "ABSTRACTCORE_PUBLISH"
    } & documented


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!\w+://)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_make_target_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+(?:-[a-z]+)*):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^\$ (?:\w+=\S+ )*|`)make ([a-z-]+)", page.read_text(), re.M))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_management_command_named_exists(page: Path) -> None:
    from django.core.management import get_commands

    assert set(re.findall(r"manage\.py ([a-z_]+)", page.read_text())) <= set(get_commands())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_address_named_is_served(page: Path) -> None:
    from django.urls import resolve

    from gateway_api.not_found import UnknownAddressView

    named = re.findall(
        r"`(?:GET |POST )?(/(?:v1/|livez|readyz|docs|openapi)[^`\s]*)`", page.read_text()
    )
    served = {path: getattr(resolve(path).func, "cls", None) for path in named}
    assert [path for path, view in served.items() if view is UnknownAddressView] == []
