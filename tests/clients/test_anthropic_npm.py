"""Anthropic's npm client."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require_or_skip
from tests.gateway import KEY, Gateway
from tests.upstream import DONE, Asked, Peer, Upstream, chunk, chunks, completion, usage_chunk

pytestmark = pytest.mark.once

CALLS = Path(__file__).with_name("anthropic_calls.mjs")
PACKAGE = "@anthropic-ai/sdk@^1"


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm client and our calls."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        require_or_skip("there is no node with npm")
    folder = tmp_path_factory.mktemp("npm-anthropic")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        require_or_skip(f"npm cannot install {PACKAGE}: {done.stderr[-500:]}")
    shutil.copy(CALLS, folder)
    return folder


async def hello_or_a_call(asked: Asked, peer: Peer) -> None:
    """Calls the tool it is offered, by pieces, else says hello."""
    request = asked.json()
    if not request.get("stream"):
        peer.answer(200, json.dumps(completion("Hello there.")).encode())
        return
    peer.begin()
    for piece in calling("get_weather") if request.get("tools") else chunks("Hello", " there", "."):
        peer.piece(piece)
    peer.end()


def calling(name: str) -> list[bytes]:
    start = {"index": 0, "id": "call_1", "function": {"name": name, "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"city": ', '"Paris"}')]
    calls = [chunk(tool_calls=[call]) for call in (start, *rest)]
    return [*calls, chunk("tool_calls"), usage_chunk(9, 3), DONE]


def test_the_npm_client_chats_streams_calls_and_counts(
    gateway: Gateway, upstream: Upstream, npm_folder: Path
) -> None:
    upstream.script = hello_or_a_call
    command = ["node", CALLS.name, gateway.url, KEY]
    done = subprocess.run(command, cwd=npm_folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["whole"] == got["streamed"] == got["helped"] == "Hello there."
    assert got["requestId"].startswith("req_")
    assert (got["kinds"][0], got["kinds"][-1]) == ("message_start", "message_stop")
    assert (got["usage"]["input_tokens"], got["usage"]["output_tokens"]) == (9, 3)
    (call,) = got["called"]
    assert (call["type"], call["id"], call["name"]) == ("tool_use", "call_1", "get_weather")
    assert call["input"] == {"city": "Paris"}
    assert got["stop"] == "tool_use"
    assert got["counted"] > 0
    assert got["refused"] == {
        "kind": "BadRequestError",
        "status": 400,
        "type": "invalid_request_error",
    }
