"""Runs the calls of one turn at the same time, and tells of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chat.ids import new_id
from tools_app.results import ToolResult

MAX_CALLS = 32
"""Calls of one turn that are run. A model that asks for more is told so."""
AT_ONCE = 8
MAX_TOLD = 100
"""Characters of a call's id in events: its upstream may have made it, or its caller."""
NOT_AN_OBJECT = "arguments_that_are_no_json_object"
Publish = Callable[[str, dict[str, Any]], None]
Run = Callable[[str, str, str], Awaitable[ToolResult]]


@dataclass(frozen=True, slots=True)
class ServerTools:
    """The tools of a request that the gateway runs, by name. `run` takes a tool's name, the
    arguments as the model wrote them and the call's id; it raises nothing."""

    names: frozenset[str]
    run: Run


async def run_all(
    calls: Sequence[dict[str, Any]], tools: ServerTools, *, seconds: float, publish: Publish
) -> list[dict[str, Any]]:
    """The messages of role `tool` that answer the calls, in their order. A tool that has not ended
    after `seconds` is cancelled, and all are when this is."""
    gate = asyncio.Semaphore(AT_ONCE)
    deadline = time.monotonic() + seconds

    async def answer(at: int, call: dict[str, Any]) -> dict[str, Any]:
        if at >= MAX_CALLS:
            ran = ToolResult(f"Not run: more than {MAX_CALLS} calls at once.", "too_many_calls")
        else:
            async with gate:
                ran = await _run(call, tools, seconds=deadline - time.monotonic(), publish=publish)
        return {"role": "tool", "tool_call_id": call["id"], "content": ran.text}

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(answer(at, call)) for at, call in enumerate(calls)]
    return [task.result() for task in tasks]


async def _run(
    call: dict[str, Any], tools: ServerTools, *, seconds: float, publish: Publish
) -> ToolResult:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    told = {"tool_name": name, "call_id": call["id"][:MAX_TOLD]}
    publish("tool_started", told)
    started = time.perf_counter()
    ran = ToolResult("", "cancelled")
    try:
        if NOT_AN_OBJECT in arguments:
            ran = ToolResult("Not run: the arguments must be a JSON object.", "invalid_arguments")
            return ran
        async with asyncio.timeout(seconds):
            ran = await tools.run(name, arguments, call["id"])
    except TimeoutError:
        ran = ToolResult("The tool took too long and was stopped.", "timeout")
    finally:
        ended = {
            "success": ran.error is None,
            "duration_ms": round((time.perf_counter() - started) * 1000),
            "error": ran.error,
        }
        publish("tool_completed", told | ended)
    return ran


def replayable(calls: Sequence[dict[str, Any]], *, taken: Iterable[str]) -> list[dict[str, Any]]:
    """The calls as they can stand in a history: each with an id of its own (`taken` are earlier
    ones), because an answer names the call it answers by it, and with an object for arguments,
    because most upstreams take no other. What a model wrote instead stands in that object, for it
    to see."""
    seen = set(taken)
    named = []
    for call in calls:
        id_ = call.get("id") or ""
        if not id_ or id_ in seen:
            id_ = f"call_{new_id()}"
        seen.add(id_)
        function = call["function"]
        arguments = _object(function.get("arguments") or "{}")
        named.append({**call, "id": id_, "function": {**function, "arguments": arguments}})
    return named


def _object(arguments: str) -> str:
    try:
        if isinstance(orjson.loads(arguments), dict):
            return arguments
    except orjson.JSONDecodeError:
        pass
    return orjson.dumps({NOT_AN_OBJECT: arguments}).decode()
