"""A journal of a worker under test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from usage.journal import Journal


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(directory: Path) -> Iterator[Journal]:
    journal = Journal(directory, "worker-1", max_bytes=1 << 30)
    yield journal
    journal.shut()
