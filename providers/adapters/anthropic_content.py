"""Parts of an OpenAI message as Anthropic's content blocks, cache marks kept."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from chat.errors import InvalidRequest

Block = dict[str, Any]


def read_blocks(
    content: str | list[dict[str, Any]] | None, param: str, dropped: set[str]
) -> list[Block]:
    """The blocks of a message's content. Text that is blank is left out: Anthropic refuses it.
    Raises InvalidRequest for a part that cannot be sent."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    blocks = []
    for at, part in enumerate(content):
        block = _block(part, f"{param}[{at}]", dropped)
        if block is not None:
            mark_last([block], part, dropped)
            blocks.append(block)
    return blocks


def mark_last(blocks: list[Block], source: dict[str, Any], dropped: set[str]) -> None:
    """Puts the cache mark of a part, message, call or tool on the last of its blocks (M35).

    `cache_control` goes as it is. OpenAI's `prompt_cache_breakpoint` lives for 30 minutes or more;
    Anthropic's marks for 5 minutes or an hour: the nearest that is not longer, and that is told.
    """
    mark = source.get("cache_control")
    if mark is None and (wanted := source.get("prompt_cache_breakpoint")) is not None:
        mark = cache_control(wanted, "prompt_cache_breakpoint", dropped)
    if mark is not None and blocks:
        blocks[-1].setdefault("cache_control", mark)


def cache_control(wanted: Any, name: str, dropped: set[str]) -> dict[str, Any]:
    """Anthropic's mark for OpenAI's `{"ttl": …}`."""
    ttl = wanted.get("ttl") if isinstance(wanted, dict) else None
    if ttl is None:
        return {"type": "ephemeral"}
    if ttl not in ("5m", "1h"):
        dropped.add(f"{name}.ttl")
    hours = isinstance(ttl, str) and ttl.endswith("h")
    return {"type": "ephemeral", "ttl": "1h" if hours else "5m"}


def _block(part: dict[str, Any], param: str, dropped: set[str]) -> Block | None:
    kind = part["type"]
    if kind in ("text", "refusal"):
        text = part[kind]
        return {"type": "text", "text": text} if text.strip() else None
    if kind == "image_url":
        return _image(part["image_url"], f"{param}.image_url", dropped)
    if kind == "file":
        return _file(part["file"], f"{param}.file")
    raise InvalidRequest(
        f"Content of the type '{kind}' cannot be sent to this model.",
        param=f"{param}.type",
        code="unsupported_value",
    )


def _image(image: str | dict[str, Any], param: str, dropped: set[str]) -> Block:
    url = image if isinstance(image, str) else image["url"]
    if isinstance(image, dict) and image.get("detail") not in (None, "auto"):
        dropped.add("image_url.detail")
    if url.startswith("data:"):
        return _embedded(url, param)
    if url.startswith(("https://", "http://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise InvalidRequest(
        "An image is given by an https or a data URL.", param=param, code="invalid_value"
    )


def _embedded(url: str, param: str, *, title: Any = None) -> Block:
    """The block of a data URL, by its media type."""
    head, comma, data = url.removeprefix("data:").partition(",")
    media_type, *parameters = head.lower().split(";")
    if not comma or "base64" not in parameters or not data:
        raise InvalidRequest(
            "A data URL must be `data:<media type>;base64,<data>`.",
            param=param,
            code="invalid_value",
        )
    if media_type.startswith("image/"):
        source = {"type": "base64", "media_type": media_type, "data": data}
        return {"type": "image", "source": source}
    if media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": data}
    elif media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _text(data, param)}
    else:
        raise InvalidRequest(
            f"Files of the type '{media_type[:64]}' cannot be sent to this model.",
            param=param,
            code="unsupported_value",
        )
    return _document(source, title)


def _text(data: str, param: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidRequest(
            "The file is not UTF-8 text in base64.", param=param, code="invalid_value"
        ) from None


def _file(file: dict[str, Any], param: str) -> Block:
    """A PDF or text as a document. Ids name files in OpenAI's store, which Anthropic cannot see."""
    data, title = file.get("file_data"), file.get("filename")
    if not isinstance(data, str) or not data:
        raise InvalidRequest(
            "This model takes files as `file_data` only.",
            param=f"{param}.file_id" if file.get("file_id") else f"{param}.file_data",
            code="unsupported_value",
        )
    if data.startswith("data:"):
        return _embedded(data, f"{param}.file_data", title=title)
    if data.startswith("https://"):
        return _document({"type": "url", "url": data}, title)
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    return _document(source, title)


def _document(source: dict[str, Any], title: Any) -> Block:
    block: Block = {"type": "document", "source": source}
    if isinstance(title, str) and title:
        block["title"] = title
    return block
