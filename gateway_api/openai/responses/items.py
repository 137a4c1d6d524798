"""Items of the Responses API: what a conversation is made of, as plain JSON objects."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from chat.errors import InvalidRequest
from sessions_app.ids import is_id, new_id

Item = dict[str, Any]

OPAQUE = "gw1."
"""How `encrypted_content` begins where it is ours: what an upstream of another wire wants back."""

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
_MADE_BY_PROVIDER = ("reasoning", "compaction", "compaction_summary")


def read_input(value: str | list[Item] | None, *, name: str = "input") -> list[Item]:
    """The field `name` as items, each with a type. Raises InvalidRequest naming the place."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    return [_typed(item, f"{name}[{at}]") for at, item in enumerate(value)]


def _typed(item: Item, place: str) -> Item:
    kind = item.get("type")
    if kind is None and "role" in item:
        return {"type": "message", **item}
    if kind is None and isinstance(item.get("id"), str):
        return {"type": "item_reference", **item}
    if not isinstance(kind, str):
        raise InvalidRequest(
            f"Missing required parameter: '{place}.type'.",
            param=f"{place}.type",
            code="missing_required_parameter",
        )
    return item


def references(items: Iterable[Item]) -> list[str]:
    """The ids that items refer to."""
    return [str(item.get("id")) for item in items if item["type"] == "item_reference"]


def resolve_references(items: list[Item], found: Mapping[str, Item]) -> list[Item]:
    """The items with what they refer to in its place. Raises InvalidRequest."""
    resolved = []
    for at, item in enumerate(items):
        if item["type"] == "item_reference":
            name = str(item.get("id"))
            if name not in found:
                raise InvalidRequest(
                    f"Item with id '{name[:200]}' not found.", param=f"input[{at}]"
                )
            item = found[name]
        resolved.append(item)
    return resolved


def with_ids(items: list[Item]) -> list[Item]:
    """The items as they are stored: each with an id of its own, texts as parts, a status."""
    taken: set[str] = set()
    return [_stored(item, taken) for item in items]


def _stored(item: Item, taken: set[str]) -> Item:
    kind, name = item["type"], str(item.get("id"))
    if not is_id(item.get("id")) or name in taken:  # lists are paged by ids
        name = new_id(_PREFIXES.get(kind, "item"))
    taken.add(name)
    stored = {**item, "id": name}
    if kind == "message":
        stored["content"] = content_parts(item.get("role"), item.get("content"))
    if kind in ("message", "function_call", "function_call_output"):
        stored["status"] = stored.get("status") or "completed"
    return stored


def content_parts(role: Any, content: Any) -> Any:
    """A message's content as parts."""
    if not isinstance(content, str):
        return content
    if role == "assistant":
        return [{"type": "output_text", "text": content, "annotations": [], "logprobs": []}]
    return [{"type": "input_text", "text": content}]


def made_by_provider(items: Iterable[Item]) -> list[str]:
    """The ids of the items that only the credential which made them can have read (M40)."""
    return [
        item["id"]
        for item in items
        if item.get("type") in _MADE_BY_PROVIDER
        and isinstance(item.get("id"), str)
        and not str(item.get("encrypted_content") or "").startswith(OPAQUE)
    ]


def for_another_upstream(items: Iterable[Item]) -> list[Item]:
    """Items without what only the upstream that made them understands: its reasoning, the runs of
    its hosted tools, its ids."""
    return [
        {name: value for name, value in item.items() if name not in ("id", "status")}
        for item in items
        if item.get("type") in ("message", "function_call", "function_call_output")
    ]


def seal(kept: dict[str, Any]) -> str:
    """What an upstream of another wire wants back in the next turn, as `encrypted_content`."""
    return OPAQUE + base64.b64encode(orjson.dumps(kept)).decode()


def unseal(item: Item) -> dict[str, Any]:
    """What `seal` put into a reasoning item; nothing where the item is another's."""
    sealed = item.get("encrypted_content")
    if not (isinstance(sealed, str) and sealed.startswith(OPAQUE)):
        return {}
    try:
        kept = orjson.loads(base64.b64decode(sealed[len(OPAQUE) :], validate=True))
    except ValueError:
        return {}
    return kept if isinstance(kept, dict) else {}
