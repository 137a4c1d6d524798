"""The recorded answers to `GET /v1/models`, by the provider; none where they are not here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

WIRE = Path(__file__).resolve().parents[2] / "shared/wire"
FILES = ("openai-other", "other-providers", "local-servers")


def recorded() -> list[dict[str, Any]]:
    found = []
    for path in (WIRE / f"{name}.jsonl.gz" for name in FILES):
        if path.exists():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                found += [json.loads(line) for line in lines]
    return [each for each in found if each["endpoint"] == "/v1/models"]


INTERACTIONS = recorded()
RECORDED = [(each["provider"], each["response"]["body"]) for each in INTERACTIONS]
