"""What people and models said, as the admin shows it: as text, whatever it says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.utils.html import format_html_join
from django.utils.safestring import SafeString

MAX_TEXT = 4000
_BLOCK = (
    '<div class="mb-4"><div class="font-semibold">{} · {}</div>'
    '<div class="whitespace-pre-wrap break-words">{}</div></div>'
)


def show_turns(turns: Iterable[tuple[str, str, str]]) -> SafeString:
    """One block for each turn: who, what is to be known beside it, the text."""
    return format_html_join("", _BLOCK, turns)


def text_of_content(content: Any) -> str:
    """The text of a message's content, a string or parts; other parts by their type."""
    if isinstance(content, str):
        return content
    return "\n".join(map(_part, content)) if isinstance(content, list) else ""


def _part(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    return f"[{part.get('type', 'part')}]" if isinstance(part, dict) else "[part]"


def shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
