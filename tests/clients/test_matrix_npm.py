"""npm clients nobody here wrote, against every kind of provider: an answer, a stream, a call."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conversation import HELLO, LOOKING, SUNNY, model_of
from tests.conftest import require_or_skip
from tests.contract.kinds import SPEAKS
from tests.gateway import KEY, Gateway

pytestmark = pytest.mark.once

CALLS = Path(__file__).with_name("matrix_calls.mjs")
PACKAGES = [
    "@ai-sdk/openai-compatible@^2",
    "@anthropic-ai/sdk@^1",
    "ai@^6",
    "openai@^6",
    "zod@^4",
]


@pytest.fixture(scope="session")
def got(talking: Gateway, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every client got of every kind's model: one process for all, as node starts slowly."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        require_or_skip("there is no node with npm")
    folder = tmp_path_factory.mktemp("npm-matrix")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        require_or_skip(f"npm cannot install {PACKAGES}: {done.stderr[-500:]}")
    shutil.copy(CALLS, folder)
    models = map(model_of, SPEAKS)
    command = ["node", CALLS.name, talking.url, KEY, *models]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", SPEAKS)
@pytest.mark.parametrize("client", ["openai", "anthropic", "vercel"])
def test_an_answer_a_stream_and_a_tool_call(got: dict[str, Any], client: str, kind: str) -> None:
    told = got[client][model_of(kind)]
    assert "failed" not in told
    assert told["answer"] == told["stream"] == HELLO.text
    assert told["calls"] == [[call.name, call.arguments] for call in LOOKING.calls]
    assert told.get("ended", SUNNY.text) == SUNNY.text
