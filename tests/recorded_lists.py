"""The recorded answers to `GET /v1/models`, by the provider; none where they are not here."""

from __future__ import annotations

from tests.recordings import recorded

INTERACTIONS = recorded(endpoint="/v1/models")
RECORDED = [(each["provider"], each["response"]["body"]) for each in INTERACTIONS]
