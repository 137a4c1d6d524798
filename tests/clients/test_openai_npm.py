"""OpenAI's npm client."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require_or_skip
from tests.gateway import KEY, Gateway
from tests.upstream import Asked, Peer, Upstream, chunks, completion

pytestmark = pytest.mark.once

CALLS = Path(__file__).with_name("openai_calls.mjs")
OTHER_CALLS = Path(__file__).with_name("openai_other_calls.mjs")
PACKAGE = "openai@^6"


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm client and our calls."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        require_or_skip("there is no node with npm")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        require_or_skip(f"npm cannot install {PACKAGE}: {done.stderr[-500:]}")
    for calls in (CALLS, OTHER_CALLS):
        shutil.copy(calls, folder)
    return folder


async def hello(asked: Asked, peer: Peer) -> None:
    if not asked.json().get("stream"):
        peer.answer(200, json.dumps(completion("Hello there.")).encode())
        return
    peer.begin()
    for piece in chunks("Hello", " there", "."):
        peer.piece(piece)
    peer.end()


def test_the_npm_client_chats_streams_and_lists(
    gateway: Gateway, upstream: Upstream, npm_folder: Path
) -> None:
    upstream.script = hello
    command = ["node", CALLS.name, f"{gateway.url}/v1", KEY]
    done = subprocess.run(command, cwd=npm_folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["whole"] == got["streamed"] == got["helped"] == "Hello there."
    assert got["requestId"].startswith("req_")
    assert got["usage"]["total_tokens"] == 12
    assert {"smart", "scripted/gpt-4o-mini"} <= set(got["models"])
    assert got["refused"] == {"kind": "BadRequestError", "status": 400, "param": "temperature"}


async def everything_else(asked: Asked, peer: Peer) -> None:
    text = {"object": "text_completion", "choices": [{"text": "b", "index": 0}]}
    match asked.path:
        case "/v1/embeddings":
            vectors = [{"index": at, "embedding": [0.5, at]} for at in range(2)]
            peer.answer(200, json.dumps({"object": "list", "data": vectors}).encode())
        case "/v1/completions":
            text["choices"][0]["finish_reason"] = "stop"  # type: ignore[index]
            peer.answer(200, json.dumps(text).encode())
        case "/v1/audio/transcriptions":
            is_whole = asked.body.count(b"\x07") == 3_000_000
            is_renamed = b'name="model"\r\n\r\nwhisper\r\n' in asked.body
            heard = "all of it" if is_whole and is_renamed else "nonsense"
            peer.answer(200, json.dumps({"text": heard}).encode())
        case "/v1/audio/speech":
            peer.answer(200, b"sound", content_type="audio/mpeg")
        case _:
            peer.answer(200, b'{"id": "file-1"}')


def test_the_npm_client_embeds_carries_on_and_uploads(
    gateway: Gateway, upstream: Upstream, npm_folder: Path
) -> None:
    upstream.script = everything_else
    command = ["node", OTHER_CALLS.name, f"{gateway.url}/v1", KEY]
    done = subprocess.run(command, cwd=npm_folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "vectors": [[0.5, 0], [0.5, 1]],
        "text": "b",
        "streamed": "b",
        "heard": "all of it",
        "spoken": "sound",
        "uploaded": "file-1",
    }
