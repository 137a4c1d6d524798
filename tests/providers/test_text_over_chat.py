"""Text completions of an upstream on another wire, which only chats."""

from __future__ import annotations

import json
from typing import Any

from chat.parsing import parse_text_request
from providers.adapters.anthropic import AnthropicAdapter
from providers.adapters.base import Endpoint
from providers.http import HttpClient
from tests.providers.raw_upstream import Upstream, answering, serving

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Paris."}],
    "stop_reason": "max_tokens",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 2},
}


def ok(body: bytes, content_type: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


def streamed() -> bytes:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Paris."},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": 2},
        },
        {"type": "message_stop"},
    ]
    return b"".join(
        f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events
    )


def adapter(upstream: Upstream, client: HttpClient) -> AnthropicAdapter:
    root = f"http://127.0.0.1:{upstream.port}"
    return AnthropicAdapter(Endpoint(base_url=root, api_key="k", model="claude"), client)


def asked(**more: Any) -> Any:
    body = {"prompt": ["a: ", "b: "], "max_tokens": 2, "echo": True, "seed": 1, **more}
    return parse_text_request(json.dumps(body).encode())


async def test_prompts_become_messages_and_answers_texts(client: HttpClient) -> None:
    whole = ok(json.dumps(MESSAGE).encode(), b"application/json")
    async with serving(answering(whole)) as upstream:
        request = asked()
        reply = await adapter(upstream, client).complete_text(request)
    told = json.loads(reply.body)
    assert [each["text"] for each in told["choices"]] == ["a: Paris.", "b: Paris."]
    assert [each["finish_reason"] for each in told["choices"]] == ["length", "length"]
    assert told["usage"]["total_tokens"] == 14
    assert request.dropped == {"seed"}
    sent = json.loads(upstream.requests[0].partition(b"\r\n\r\n")[2])
    assert sent["messages"][0]["role"] == "user"
    assert b"a: " in upstream.requests[0]


async def test_a_stream_is_numbered_through_and_counted_whole(client: HttpClient) -> None:
    async with serving(answering(ok(streamed(), b"text/event-stream"))) as upstream:
        texts, ends, usage = ["", ""], 0, None
        async for batch in adapter(upstream, client).stream_text(asked(stream=True)):
            for chunk in batch.chunks:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
                    ends += choice.finish_reason == "length"
    assert (texts, ends) == (["a: Paris.", "b: Paris."], 2)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 4)
