"""What conversations were made with, and the turns said in them, to rows of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def to_rows(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    Item = apps.get_model("sessions_app", "ConversationItem")
    for row in apps.get_model("sessions_app", "Conversation").objects.all():
        for item, provider in {item["id"]: (item, who) for item, who in _said(apps, row)}.values():
            Item.objects.create(
                conversation=row, item_id=item["id"], provider=provider, body=json.dumps(item)
            )


def _said(apps: Apps, row: Any) -> Iterator[tuple[dict[str, Any], str]]:
    yield from ((item, "") for item in json.loads(row.items) if _is_named(item))
    turns = apps.get_model("sessions_app", "StoredResponse").objects.filter(
        owner=row.owner,
        conversation=row.conversation_id,
        status__in=("completed", "incomplete"),
    )
    for turn in turns.order_by("created_at", "id"):
        items = [*json.loads(turn.input), *(json.loads(turn.body).get("output") or ())]
        yield from (
            (item, turn.provider if turn.native else "") for item in items if _is_named(item)
        )


def _is_named(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str) and len(item["id"]) <= 200


def to_text(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    conversations: Any = apps.get_model("sessions_app", "Conversation").objects
    for row in conversations.all():
        items = [json.loads(item.body) for item in row.said.order_by("id")]
        conversations.filter(pk=row.pk).update(items=json.dumps(items))


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0003_conversation_items"),
    ]

    operations = [
        migrations.RunPython(to_rows, to_text),
    ]
