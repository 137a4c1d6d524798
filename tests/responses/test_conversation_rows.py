"""Conversations of the version before they had rows for their items."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

AFTER = "0005_conversation_items_once"


def migrate(name: str) -> Any:
    executor = MigrationExecutor(connection)
    executor.migrate([("sessions_app", name)])
    return executor.loader.project_state([("sessions_app", name)]).apps


@pytest.mark.django_db(transaction=True)
def test_what_was_said_moves_to_rows_and_back() -> None:
    try:
        old = migrate("0001_stored_responses")
        began = {"id": "msg_1", "type": "message", "role": "user", "content": "A"}
        old.get_model("sessions_app", "Conversation").objects.create(
            owner="ci", conversation_id="conv_1", items=json.dumps([began])
        )
        answer = {"id": "msg_3", "type": "message", "role": "assistant", "content": []}
        for status in ("completed", "failed"):
            old.get_model("sessions_app", "StoredResponse").objects.create(
                owner="ci",
                response_id=status,
                status=status,
                model="m",
                provider="native",
                native=True,
                conversation="conv_1",
                input=json.dumps([{**began, "id": "msg_2"}]),
                body=json.dumps({"output": [answer, {"no": "id"}, None]}),
            )
        said = migrate(AFTER).get_model("sessions_app", "ConversationItem").objects.order_by("id")
        assert list(said.values_list("item_id", "provider")) == [
            *(("msg_1", ""), ("msg_2", "native"), ("msg_3", "native")),
        ]
        before = migrate("0001_stored_responses").get_model("sessions_app", "Conversation")
        names = [item["id"] for item in json.loads(before.objects.get().items)]
        assert names == ["msg_1", "msg_2", "msg_3"]
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes("sessions_app"))
