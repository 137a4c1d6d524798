"""The lists of the admin: what they say, and that a longer one asks the database no oftener."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from events_app.models import Event
from keys.models import VirtualKey
from providers.models import Deployment, Price, Provider, Route, RouteTarget
from sessions_app.models import Conversation, ConversationItem, Session, StoredResponse
from tests.admin.conftest import make_key
from tools_app.models import McpServer, Tool
from usage.models import HourlyUsage, UsageRecord


def make_provider(number: int) -> Provider:
    return Provider.objects.create(name=f"p{number}", kind="fake")


def make_deployment(number: int) -> Deployment:
    row = Deployment.objects.create(provider=make_provider(number), model="m")
    Price.objects.create(deployment=row, valid_from=timezone.now(), input=1, output=2)
    return row


def make_route(number: int) -> None:
    route, target = Route.objects.create(name=f"r{number}"), make_deployment(number)
    RouteTarget.objects.create(route=route, deployment=target, position=0)


def make_conversation(number: int) -> None:
    row = Conversation.objects.create(owner="ci", conversation_id=f"conv_{number}")
    for place in range(number):
        ConversationItem.objects.create(conversation=row, item_id=f"msg_{place}", body="{}")


def make_record(number: int) -> None:
    now = timezone.now()
    UsageRecord.objects.create(
        id=uuid.uuid4(), request_id=f"r{number}", created_at=now, wire="openai", stream=False
    )
    hour = now.replace(minute=0, second=0, microsecond=0)
    HourlyUsage.objects.create(hour=hour, model=f"m{number}", requests=1)


def make_event(number: int) -> Event:
    fields = {"success": True, "error": None, "code": "<b>x</b>"}
    return Event.objects.create(
        line=uuid.uuid4(), type="generation_completed", created_at=timezone.now(), fields=fields
    )


LISTS: dict[str, Callable[[int], Any]] = {
    "providers/provider": make_provider,
    "providers/deployment": make_deployment,
    "providers/route": make_route,
    "keys/virtualkey": lambda number: make_key(f"k{number}", allowed_tools=["get_*"]),
    "usage/usagerecord": make_record,
    "usage/hourlyusage": make_record,
    "events_app/event": make_event,
    "sessions_app/session": lambda number: Session.objects.create(
        owner="ci", session_id=f"session-{number}"
    ),
    "sessions_app/conversation": make_conversation,
    "sessions_app/storedresponse": lambda number: StoredResponse.objects.create(
        owner="ci", response_id=f"resp_{number}", status="completed"
    ),
    "tools_app/tool": lambda number: Tool.objects.create(name=f"t{number}", kind="client"),
    "tools_app/mcpserver": lambda number: McpServer.objects.create(
        name=f"s{number}", url="http://mcp.example/"
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_longer_list_takes_no_more_queries(admin_client: Client, name: str) -> None:
    def shown_and_asked() -> tuple[int, int]:
        with CaptureQueriesContext(
            connection,
        ) as asked:
            page = admin_client.get(f"/admin/{name}/").content.decode()
        return page.count('class="data-row'), len(asked)

    LISTS[name](1)
    shown, before = shown_and_asked()
    for number in range(2, 6):
        LISTS[name](number)
    assert shown_and_asked() == (shown + 4, before)


def test_the_events_are_called_as_the_stream_calls_them(admin_client: Client) -> None:
    event = make_event(1)
    page = admin_client.get("/admin/events_app/event/").content.decode()
    assert ">generation_completed<" in re.sub(r"\s+", "", page)
    assert "Show all" not in page and "10000" not in page  # rows that nobody counted
    page = admin_client.get(f"/admin/events_app/event/{event.pk}/change/").content.decode()
    assert "success: true" in page and "error: null" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "<b>x</b>" not in page


def test_a_keys_tools_stand_in_the_list(admin_client: Client, key: VirtualKey) -> None:
    make_key("held", allowed_tools=["get_*", "ask_user"])
    page = admin_client.get("/admin/keys/virtualkey/").content.decode()
    told = re.findall(r'<td class="field-tools[^>]*>\s*(.*?)\s*</td>', page, re.DOTALL)
    assert told == ["all", "get_*, ask_user"]


HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(2)>"


def conversation_of(*items: dict[str, Any], metadata: str = "{}") -> Conversation:
    row = Conversation.objects.create(owner="ci", conversation_id="conv_1", metadata=metadata)
    for place, item in enumerate(items):
        ConversationItem.objects.create(
            conversation=row, item_id=f"item_{place}", body=json.dumps(item)
        )
    return row


def test_what_was_said_in_a_conversation_is_text(admin_client: Client) -> None:
    said = [{"type": "output_text", "text": HOSTILE}, {"type": "input_image", "image_url": "x"}]
    row = conversation_of(
        {"type": "message", "role": "user", "content": HOSTILE},
        {"type": "message", "role": f"assistant{HOSTILE}", "content": said},
        {"type": "function_call", "name": HOSTILE, "arguments": "{}", "call_id": "c"},
        {"type": HOSTILE},
        {"role": "user", "content": None},
        metadata=json.dumps({"topic": HOSTILE}),
    )
    page = admin_client.get(f"/admin/sessions_app/conversation/{row.pk}/change/").content.decode()
    assert "<script>alert" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 6
    assert "[input_image]" in page


def test_a_long_conversation_shows_its_end(admin_client: Client) -> None:
    items = [{"role": "user", "content": f"turn {number}."} for number in range(205)]
    row = conversation_of(*items)
    page = admin_client.get(f"/admin/sessions_app/conversation/{row.pk}/change/").content.decode()
    assert "turn 4." not in page and "turn 5." in page
    assert page.index("turn 5.") < page.index("turn 204.")
