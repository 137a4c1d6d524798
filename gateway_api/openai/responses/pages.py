"""Lists of items, a page at a time."""

from __future__ import annotations

import re
from typing import Any

from django.http import QueryDict

from chat.errors import InvalidRequest
from gateway_api.openai.responses.items import Item

MAX_ITEMS = 100
DEFAULT_ITEMS = 20


def page_of(items: list[Item], query: QueryDict) -> dict[str, Any]:
    """The page that `limit`, `order` and `after` ask for. Raises InvalidRequest naming them."""
    limit, order = _read_limit(query), query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise InvalidRequest("`order` must be asc or desc.", param="order")
    items = _after(items if order == "asc" else items[::-1], query.get("after"))
    return list_of(items[:limit], has_more=len(items) > limit)


def list_of(items: list[Item], *, has_more: bool = False) -> dict[str, Any]:
    """Items as the API lists them."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0].get("id") if items else None,
        "last_id": items[-1].get("id") if items else None,
        "has_more": has_more,
    }


def _read_limit(query: QueryDict) -> int:
    value = query.get("limit")
    if value is None:
        return DEFAULT_ITEMS
    if not re.fullmatch(r"[0-9]{1,4}", value, re.ASCII) or not 1 <= int(value) <= MAX_ITEMS:
        raise InvalidRequest(f"`limit` must be a number from 1 to {MAX_ITEMS}.", param="limit")
    return int(value)


def _after(items: list[Item], after: str | None) -> list[Item]:
    if not after:
        return items
    for at, item in enumerate(items):
        if item.get("id") == after:
            return items[at + 1 :]
    raise InvalidRequest("`after` is no item of this list.", param="after")
