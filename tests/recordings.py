"""Interactions recorded with real providers: a folder beside the repository, often absent."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared/wire"


def recorded(*names: str, endpoint: str | None = None) -> list[dict[str, Any]]:
    """What these files hold, or all files where none is named, of one endpoint or of all."""
    found: list[dict[str, Any]] = []
    for path in sorted(FOLDER.glob("*.jsonl.gz")):
        if not names or path.name.removesuffix(".jsonl.gz") in names:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                found += [json.loads(line) for line in lines]
    return [each for each in found if endpoint in (None, each["endpoint"])]


def needs(interactions: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not interactions, reason="the recorded interactions are not here")


def every(interactions: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """A test of each, as its argument `interaction`."""
    ids = [each["id"] for each in interactions]
    return pytest.mark.parametrize("interaction", interactions, ids=ids)
