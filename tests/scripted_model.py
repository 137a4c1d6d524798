"""A model behind a scripted upstream, for probes: able in everything it is not told otherwise."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.upstream import DONE, Asked, Peer, chunk, completion, usage_chunk

Said = dict[str, Any] | tuple[int, dict[str, Any]] | None


def call(city: str, number: int = 0, name: str = "get_weather") -> dict[str, Any]:
    arguments = json.dumps({"city": city})
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def question(body: dict[str, Any]) -> str:
    """Which of its questions a probe asks."""
    content = body["messages"][-1]["content"]
    if body.get("stream"):
        return "stream"
    if "response_format" in body:
        return str(body["response_format"]["type"])
    if "tool_choice" in body:
        return "tool_choice"
    if "tools" in body:
        return "parallel_tools" if "Rome" in content else "tools"
    if isinstance(content, list):
        return "vision"
    return "system" if body["messages"][0]["role"] == "system" else "plain"


class Model:
    """A model that can do everything, but for what `says` puts in an answer's place: a completion,
    a status and a body, or None for no answer."""

    def __init__(self, **says: Said) -> None:
        self.says = says
        self.bodies: list[dict[str, Any]] = []
        self.usage_in_stream = True

    async def play(self, asked: Asked, peer: Peer) -> None:
        body = asked.json()
        self.bodies.append(body)
        if asked.path.endswith("/embeddings"):
            await self.answer("embeddings", peer, {"data": [{"embedding": [0.1, 0.2, 0.3]}]})
            return
        asks = question(body)
        if asks == "stream" and asks not in self.says:
            self.stream(body, peer)
            return
        able: dict[str, Any] = {
            "tools": completion(None, tool_calls=[call("Paris")]),
            "tool_choice": completion(None, tool_calls=[call("Paris")]),
            "parallel_tools": completion(None, tool_calls=[call("Paris"), call("Rome", 1)]),
            "json_schema": completion('{"colour": "blue", "count": 7}'),
            "json_object": completion('{"sea": "deep"}'),
            "vision": completion("Yellow and black."),
        }
        await self.answer(asks, peer, able.get(asks, completion("Hello!")))

    async def answer(self, asks: str, peer: Peer, usually: dict[str, Any]) -> None:
        said = self.says.get(asks, usually)
        if said is None:
            await asyncio.Event().wait()
        status, body = said if isinstance(said, tuple) else (200, said)
        peer.answer(status, json.dumps(body).encode())

    def stream(self, body: dict[str, Any], peer: Peer) -> None:
        peer.begin()
        for piece in (chunk(content="Hel"), chunk(content="lo"), chunk("stop")):
            peer.piece(piece)
        if self.usage_in_stream and body.get("stream_options", {}).get("include_usage"):
            peer.piece(usage_chunk(9, 2))
        peer.piece(DONE)
        peer.end()
