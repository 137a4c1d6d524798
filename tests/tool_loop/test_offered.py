"""Which tools of a request are the gateway's to run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from chat.errors import InvalidRequest
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from gateway_api.exchange import Call
from gateway_api.server_tools import server_tools
from keys.caller import Caller
from tools_app import snapshot
from tools_app.snapshot import ToolFacts, ToolSnapshot

pytestmark = pytest.mark.once
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    facts = [
        ToolFacts("get_weather", "Tells the weather.", CITY, "http", url="https://t.example/"),
        ToolFacts("search", "", CITY, "mcp", url="https://t.example/"),
        ToolFacts("ask_user", "", CITY, "client"),
    ]
    snapshot.install(ToolSnapshot(1, {each.name: each for each in facts}, {}))
    yield
    snapshot.install(snapshot.EMPTY)


def defined(name: str, description: str = "", **changes: Any) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": CITY, **changes}
    return {"type": "function", "function": function}


WEATHER = defined("get_weather", "Tells the weather.")


def asked(*tools: dict[str, Any], **fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "?"}], "tools": tools, **fields}
    return parse_chat_request(json.dumps(body).encode())


async def run_here(request: ChatRequest, *, tools: tuple[str, ...] | None = None) -> set[str]:
    caller = Caller("ci", tools=tools)
    call = Call(caller, request, request_id="r", wire="openai", endpoint="chat", started=0.0)
    found = await server_tools(call)
    return set(found.names) if found is not None else set()


async def test_registered_http_and_mcp_tools_are() -> None:
    request = asked(WEATHER, defined("search"), defined("ask_user"), defined("own"))
    assert await run_here(request) == {"get_weather", "search"}


async def test_another_tool_of_a_registered_ones_name_is_the_callers() -> None:
    for other in (
        defined("search", parameters={"type": "object"}),
        defined("search", "Opens the door."),
    ):
        assert await run_here(asked(other)) == set()


async def test_a_tool_the_key_may_not_use_is_the_callers() -> None:
    assert await run_here(asked(WEATHER, defined("search")), tools=("sea*",)) == {"search"}


async def test_a_request_that_only_its_own_wire_can_say_is_refused_in_its_words() -> None:
    request = asked(WEATHER)
    request.native_only = InvalidRequest("Only there.", param="container")
    with pytest.raises(InvalidRequest, match="Only there"):
        await run_here(request)
    assert await run_here(asked(defined("own"))) == set()


async def test_nothing_is_passed_through_that_has_to_be_gone_on_from() -> None:
    request = asked(WEATHER)
    request.native = {"input": "?"}
    await run_here(request)
    assert request.native is None
    untouched = asked(defined("own"))
    untouched.native = {"input": "?"}
    await run_here(untouched)
    assert untouched.native == {"input": "?"}


async def test_several_answers_cannot_be_gone_on_from() -> None:
    with pytest.raises(InvalidRequest):
        await run_here(asked(WEATHER, n=2))
    assert await run_here(asked(defined("own"), n=2)) == set()
