"""A request whose tools the gateway runs, on its way to scripted upstreams over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from chat.folding import CompletionFolder
from chat.parsing import parse_chat_request
from chat.types import ChatChunk
from gateway_api import pipeline
from gateway_api.exchange import Call, Exchange
from gateway_api.tool_runs import ServerTools
from keys.caller import Caller
from keys.limits import admit
from providers.dispatch import Dispatch
from providers.http import HttpClient, Timeouts
from providers.routing import Plan
from providers.snapshot import ProviderFacts, Snapshot, Target
from tests.scripted_model import call
from tests.upstream import Asked, Peer, Upstream, completion, event
from tools_app.results import ToolResult
from usage.journal import Journal

ASKING = "ask"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
OWN = {"type": "function", "function": {"name": "open_door", "parameters": {"type": "object"}}}
Tool = Callable[[str, str, str], Awaitable[ToolResult]]


async def sunny(name: str, arguments: str, call_id: str) -> ToolResult:
    return ToolResult(f"Sunny in {json.loads(arguments).get('city')}.")


def answers(*bodies: Any) -> Callable[[Asked, Peer], Awaitable[None]]:
    """A script that gives one answer after the other: whole ones, or streams of these pieces."""
    left = list(bodies)

    async def script(asked: Asked, peer: Peer) -> None:
        body = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(body, list):
            peer.begin(
                content_type="application/x-ndjson"
                if asked.path.startswith("/api/")
                else "text/event-stream"
            )
            for piece in body:
                peer.piece(piece)
                await asyncio.sleep(0)
            peer.end()
        elif isinstance(body, tuple):
            peer.answer(body[0], json.dumps(body[1]).encode())
        else:
            peer.answer(200, json.dumps(body).encode())

    return script


def calling(*calls: dict[str, Any], says: str | None = None, **message: Any) -> dict[str, Any]:
    """A whole answer that calls."""
    return completion(says, tool_calls=list(calls), **message)


def streamed_call(at: int, city: str, name: str = "get_weather") -> list[dict[str, Any]]:
    """The deltas of one call: its head, then its arguments in two fragments."""
    whole = call(city, at, name)
    arguments = whole["function"]["arguments"]
    head = {**whole, "index": at, "function": {"name": name, "arguments": ""}}
    parts = (arguments[:4], arguments[4:])
    return [head, *({"index": at, "function": {"arguments": part}} for part in parts)]


def pieces_of(*deltas: dict[str, Any], finish: str, usage: tuple[int, int]) -> list[bytes]:
    head = {"id": f"chatcmpl-{usage[0]}", "object": "chat.completion.chunk", "created": 7}
    head["model"] = "gpt-4o-mini-2024-07-18"
    told = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in ({"role": "assistant", "content": ""}, *deltas)
    ]
    told.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    counts["total_tokens"] = sum(usage)
    told.append({**head, "choices": [], "usage": counts})
    return [*map(event, told), b"data: [DONE]\n\n"]


class Stage:
    """Upstreams by their kind, and a journal."""

    def __init__(self, http: HttpClient, journal: Journal, upstream: Upstream) -> None:
        self.http, self.journal, self.upstream = http, journal, upstream

    def target(self, kind: str, port: int | None = None) -> Target:
        port = port or self.upstream.port
        path = "/v1" if kind.startswith("openai") else ""
        provider = ProviderFacts(
            name=kind,
            kind=kind,
            enabled=True,
            base_url=f"http://127.0.0.1:{port}{path}",
            api_key="sk-x",
            timeouts=Timeouts(),
            max_retries=0,
            options={},
        )
        return Target(provider, "gpt-4o-mini")

    def exchange(
        self,
        *targets: Target,
        tool: Tool = sunny,
        names: Sequence[str] = ("get_weather",),
        **fields: Any,
    ) -> Exchange:
        targets = targets or (self.target("openai-compatible"),)
        asked = {
            "model": "smart",
            "messages": [{"role": "user", "content": "How is it in Paris?"}],
            "tools": [WEATHER, OWN],
            "tool_execution": "server",
            **fields,
        }
        request = parse_chat_request(json.dumps(asked).encode())
        snapshot = Snapshot(1, {each.provider.name: each.provider for each in targets}, {}, {})
        plan = Plan("smart", targets)
        caller = Caller("ci")
        started = time.perf_counter()
        call = Call(caller, request, "req-1", "openai", "chat.completions", started)
        dispatch = Dispatch(snapshot, self.http, plan, request)
        admission = admit(caller, tokens=1)
        exchange = Exchange(call, plan, admission, dispatch, self.journal)
        exchange.tools = ServerTools(frozenset(names), tool)
        return exchange

    async def complete(self, *targets: Target, **fields: Any) -> dict[str, Any]:
        reply = await pipeline.complete(self.exchange(*targets, **fields))
        answered: dict[str, Any] = orjson.loads(reply.body)
        return answered

    async def stream(self, *targets: Target, **fields: Any) -> list[ChatChunk]:
        chunks: list[ChatChunk] = []
        async for batch in pipeline.stream(self.exchange(*targets, stream=True, **fields)):
            assert batch.wire is None
            chunks += batch.chunks
        return chunks

    def bodies(self) -> list[Any]:
        return [asked.json() for asked in self.upstream.asked]


def folded(chunks: Sequence[ChatChunk]) -> dict[str, Any]:
    folder = CompletionFolder()
    for chunk in chunks:
        folder.add(chunk)
    return folder.completion()
