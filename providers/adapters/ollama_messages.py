"""The messages of a chat completion request as Ollama takes them: one text a message with its
images beside it, calls with objects for arguments and without ids, results under their tool's name.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from chat.errors import InvalidRequest
from chat.images import data_url_payload
from chat.requests import ChatParams, ChatRequest, ContentPart, ImageURL, Message, ToolCall
from providers.fetch import Linked

Images = Mapping[str, bytes]
"""Images by the URL they were fetched from."""


def unsupported(message: str, param: str) -> InvalidRequest:
    """What is right on OpenAI's wire and cannot be asked of Ollama."""
    return InvalidRequest(message, param=param, code="unsupported_parameter")


def linked_images(params: ChatParams) -> list[Linked]:
    """The images that are named by an http(s) URL, and where."""
    links = []
    for at, message in enumerate(params.messages):
        if not isinstance(message.content, list):
            continue
        for position, part in enumerate(message.content):
            url = _url_of(part)
            if url[:5].lower() != "data:" and url:
                links.append(Linked(url, f"messages[{at}].content[{position}].image_url"))
    return links


def _url_of(part: ContentPart) -> str:
    image = part.image_url
    if isinstance(image, ImageURL):
        return image.url
    return image if isinstance(image, str) else ""


def ollama_messages(
    request: ChatRequest, images: Images, instructions: list[str]
) -> list[dict[str, Any]]:
    """Every message, with `instructions` as a system message after the caller's own. Raises
    InvalidRequest naming the part Ollama cannot take."""
    names: dict[str, str] = {}
    told = [
        _message(message, at, names=names, images=images, dropped=request.dropped)
        for at, message in enumerate(request.params.messages)
    ]
    if instructions:
        leading = next((at for at, each in enumerate(told) if each["role"] != "system"), len(told))
        told.insert(leading, {"role": "system", "content": "\n".join(instructions)})
    return told


def _message(
    message: Message, at: int, *, names: dict[str, str], images: Images, dropped: set[str]
) -> dict[str, Any]:
    """One message. `names` gathers the names of the calls by their ids: a result says only the id,
    and Ollama wants the name."""
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    told: dict[str, Any] = {"role": role}
    content = message.content
    if isinstance(content, list):
        _add_parts(told, content, f"messages[{at}].content", images=images, dropped=dropped)
    else:
        told["content"] = content or message.refusal or ""
    if message.reasoning_content:
        told["thinking"] = message.reasoning_content
    if calls := _calls(message, f"messages[{at}]", names=names):
        told["tool_calls"] = calls
    if role == "tool":
        name = message.name if message.role == "function" else names.get(message.tool_call_id or "")
        if name:
            told["tool_name"] = name
    elif message.name is not None:
        dropped.add("messages.name")
    if message.thinking_blocks:
        dropped.add("messages.thinking_blocks")  # signed for the provider that made them
    if message.audio is not None:
        raise unsupported("This provider takes no audio.", f"messages[{at}].audio")
    return told


def _add_parts(
    told: dict[str, Any],
    parts: list[ContentPart],
    place: str,
    *,
    images: Images,
    dropped: set[str],
) -> None:
    """Ollama has one text a message, and its images beside it (M31)."""
    texts: list[str] = []
    pictures: list[str] = []
    for position, part in enumerate(parts):
        if part.type == "text" and isinstance(part.text, str):
            texts.append(part.text)
        elif part.type == "refusal" and isinstance(part.refusal, str):
            texts.append(part.refusal)
        elif part.type == "image_url":
            pictures.append(_picture(part, f"{place}[{position}].image_url", images))
            if isinstance(part.image_url, ImageURL) and part.image_url.detail not in (None, "auto"):
                dropped.add("image_url.detail")
        else:
            raise unsupported(
                f"This provider takes no parts of type `{part.type[:64]}`.", f"{place}[{position}]"
            )
    told["content"] = "".join(texts) if len(texts) < 2 else "\n".join(texts)
    if pictures:
        told["images"] = pictures


def _picture(part: ContentPart, place: str, images: Images) -> str:
    url = _url_of(part)
    inline = data_url_payload(url)
    if inline is None:
        if url not in images:
            raise InvalidRequest(f"'{place}' is no URL of an image.", param=place)
        return _base64(images[url])
    media_type, content = inline
    if media_type and not media_type.startswith("image/"):
        raise InvalidRequest(f"'{place}' is not an image: {media_type[:64]}.", param=place)
    return content if isinstance(content, str) else _base64(content)


def _base64(content: bytes) -> str:
    return binascii.b2a_base64(content, newline=False).decode()


def _calls(message: Message, place: str, *, names: dict[str, str]) -> list[dict[str, Any]]:
    calls = []
    for position, call in enumerate(message.tool_calls or ()):
        where = f"{place}.tool_calls[{position}]"
        if call.function is None:
            raise unsupported(f"This provider has no calls of type `{call.type[:64]}`.", where)
        names[call.id] = call.function.name
        calls.append(_told_call(call, where))
    if message.function_call is not None:
        call = ToolCall(id="", function=message.function_call)
        calls.append(_told_call(call, f"{place}.function_call"))
    return calls


def _told_call(call: ToolCall, where: str) -> dict[str, Any]:
    assert call.function is not None
    arguments = call.function.arguments
    try:
        parsed = orjson.loads(arguments) if arguments.strip() else {}
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidRequest(
            f"'{where}.function.arguments' is not a JSON object.",
            param=f"{where}.function.arguments",
            code="invalid_value",
        )
    # As it stands: a number may be longer than a float, and nesting deeper than a writer goes.
    as_it_stands = orjson.Fragment(arguments if parsed else "{}")
    return {"function": {"name": call.function.name, "arguments": as_it_stands}}
