"""How the tests of the Responses API ask, and what their upstreams say."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.gateway import KEY, Answered, Gateway
from tests.upstream import Asked, Peer, Script, chunk, silence

event_type: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

OTHER_KEY = "gw-other-0123456789abcdef0123456789abcdef"
LIMITED_KEY = "gw-limited-0123456789abcdef0123456789abcdef"
"""One request at a time."""
MODEL = "scripted/gpt-4o-mini"
NATIVE = "native/gpt-4o-mini"


def call(
    gateway: Gateway,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str = KEY,
    **headers: str,
) -> Answered:
    raw = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **named}
    return gateway.call(method, f"/v1/responses{path}", raw, sent)


def conversation(gateway: Gateway, *, key: str = KEY, **fields: Any) -> str:
    """The id of a new conversation."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    answered = gateway.call("POST", "/v1/conversations", json.dumps(fields).encode(), headers)
    assert answered.status == 200, answered.body
    name: str = answered.json()["id"]
    return name


def create(gateway: Gateway, *, key: str = KEY, **fields: Any) -> Any:
    """A response made with these fields; the answer must be 200."""
    answered = call(gateway, "POST", "", {"model": MODEL, "input": "Hello.", **fields}, key=key)
    assert answered.status == 200, answered.body
    return answered.json()


def response(text: str = "Hello there.", **fields: Any) -> dict[str, Any]:
    """A Response object as a provider makes it."""
    return {
        "id": "resp_upstream_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": "gpt-4o-mini-2024-07-18",
        "output": [
            {
                "id": "msg_upstream_1",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
                ],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 12,
        },
        "vendor_field": {"kept": True},
        **fields,
    }


def typed(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())


def typed_events(whole: dict[str, Any]) -> list[bytes]:
    """A native stream that ends in this response."""
    head = {**whole, "status": "in_progress", "output": [], "usage": None}
    item = whole["output"][0]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = item["content"][0]
    empty = {**part, "text": ""}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": head},
        {"type": "response.in_progress", "response": head},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": empty},
        {"type": "response.output_text.delta", **place, "delta": part["text"], "logprobs": []},
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return [typed({**event, "sequence_number": at}) for at, event in enumerate(events)]


def in_turn(*scripts: Script) -> Script:
    """A script that plays these, one a request, the last again and again."""
    left = list(scripts)

    async def script(asked: Asked, peer: Peer) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked, peer)

    return script


def read_events(raw: bytes, *, known: bool = True) -> list[dict[str, Any]]:
    """The events of a stream, each with the `event:` line its type asks for, the number behind the
    last one's and, where it is `known` to the SDK, a shape it knows."""
    events: list[dict[str, Any]] = []
    for block in raw.decode().split("\n\n"):
        if not block or block.startswith(":"):
            continue
        named, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert named == f"event: {event['type']}"
        if known:
            event_type.validate_python(event)
        if events:
            assert event["sequence_number"] == events[-1]["sequence_number"] + 1
        events.append(event)
    return events


@contextmanager
def open_stream(
    gateway: Gateway, name: str = "", *, after: int | None = None, **fields: Any
) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a response as they come: of the one of this name, or of a new one in the
    background. Leaving the block leaves the stream."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    if name:
        query = "" if after is None else f"&starting_after={after}"
        connection.request("GET", f"/v1/responses/{name}?stream=true{query}", headers=headers)
    else:
        body = {"model": MODEL, "input": "x", "background": True, "stream": True, **fields}
        connection.request("POST", "/v1/responses", json.dumps(body), headers)
    answered = connection.getresponse()
    assert answered.status == 200, answered.read()
    with closing(connection), closing(answered):
        yield _events_of(answered)


def _events_of(answered: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := answered.readline():
        if line.startswith(b"data: "):
            event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            event_type.validate_python(event)
            yield event


def begin_stream(gateway: Gateway, *, until: int, **fields: Any) -> str:
    """The id of a background response whose caller left behind this many events."""
    with open_stream(gateway, **fields) as events:
        first = [next(events) for _ in range(until)][0]
    name: str = first["response"]["id"]
    return name


async def speaking_on(asked: Asked, peer: Peer) -> None:
    """Says "word" until its caller leaves; only where a stream was asked for."""
    if not asked.json().get("stream"):
        await silence(asked, peer)
    peer.begin()
    while True:
        peer.piece(chunk(content="word "))
        await asyncio.sleep(0.05)


def check_numbers(events: list[dict[str, Any]]) -> None:
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
