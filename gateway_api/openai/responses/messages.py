"""Items as the messages of a chat completion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chat.errors import InvalidRequest
from gateway_api.openai.responses.items import Item, unseal

ROLES = frozenset({"user", "assistant", "system", "developer"})
Message = dict[str, Any]


class Untranslatable(InvalidRequest):
    """The request says something a chat completion cannot; an upstream with a Responses API of its
    own may still take it."""

    default_code = "unsupported_value"


def messages_from(items: list[Item], places: list[str]) -> list[Message]:
    """The messages that say what the items say; `places` names each item in an error. Raises
    InvalidRequest for a malformed item, Untranslatable for one no chat completion can say."""
    writer = _Writer(_outputs(items, places))
    for item, place in zip(items, places, strict=True):
        writer.add(item, place)
    return writer.finish()


def check_item(item: Item, place: str) -> None:
    """Raises what `messages_from` would for an item by itself, whatever stands around it. One that
    only a provider with a Responses API can take is none of it."""
    writer = _Writer({})
    try:
        if item["type"] == "function_call_output":
            _outputs([item], [place])
        else:
            writer.add(item, place)
    except Untranslatable:
        pass


@dataclass(slots=True)
class _Output:
    content: Any
    place: str
    used: bool = False


def _outputs(items: list[Item], places: list[str]) -> dict[str, _Output]:
    """The results of calls by call: chat wants each right behind the turn that called."""
    outputs: dict[str, _Output] = {}
    for item, place in zip(items, places, strict=True):
        if item["type"] == "function_call_output":
            call_id = _text(item, "call_id", place)
            if item.get("output") is None:
                raise _missing(f"{place}.output")
            content = _content(item["output"], f"{place}.output", role="tool")
            outputs[call_id] = _Output(content, place)
    return outputs


@dataclass(slots=True)
class _Writer:
    """Gathers what belongs to one assistant turn: its thoughts, its text, its calls."""

    outputs: dict[str, _Output]
    messages: list[Message] = field(default_factory=list)
    _turn: Message = field(default_factory=dict)
    _turn_place: str = ""

    def add(self, item: Item, place: str) -> None:
        match item["type"]:
            case "message":
                self._add_message(item, place)
            case "function_call":
                self._add_call(item, place)
            case "function_call_output":
                if self._turn.get("tool_calls"):
                    self._end_turn()
            case "reasoning":
                self._add_thought(item)
            case kind:
                raise Untranslatable(
                    f"Items of the type '{str(kind)[:60]}' need a provider that has the Responses "
                    "API itself.",
                    param=place,
                )

    def finish(self) -> list[Message]:
        self._end_turn()
        for call_id, output in self.outputs.items():
            if not output.used:
                raise Untranslatable(
                    f"No tool call found for function call output with call_id '{call_id[:100]}'.",
                    param=output.place,
                    code="invalid_value",
                )
        _forget_old_thoughts(self.messages)
        return self.messages

    def _add_message(self, item: Item, place: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidRequest(
                f"Invalid value for '{place}.role': expected one of {', '.join(sorted(ROLES))}.",
                param=f"{place}.role",
                code="invalid_value",
            )
        if item.get("content") is None:
            raise _missing(f"{place}.content")
        content = _content(item["content"], f"{place}.content", role=role)
        if role != "assistant":
            self._end_turn()
            self.messages.append({"role": role, "content": content})
            return
        if self._turn.get("content") or self._turn.get("tool_calls"):
            self._end_turn()
        self._turn.update(content=content, role="assistant")

    def _add_call(self, item: Item, place: str) -> None:
        call = {
            "id": _text(item, "call_id", place),
            "type": "function",
            "function": {
                "name": _text(item, "name", place),
                "arguments": _text(item, "arguments", place),
            },
        }
        self._turn.setdefault("content", None)
        self._turn["role"] = "assistant"
        self._turn.setdefault("tool_calls", []).append(call)
        self._turn_place = place

    def _add_thought(self, item: Item) -> None:
        if self._turn.get("content") and not self._turn.get("tool_calls"):
            self._end_turn()  # among parallel calls a thought belongs to their turn
        kept = unseal(item)
        blocks, text = kept.get("thinking_blocks"), kept.get("reasoning_content")
        if isinstance(blocks, list):
            self._turn.setdefault("thinking_blocks", []).extend(blocks)
        if isinstance(text, str):
            self._turn["reasoning_content"] = self._turn.get("reasoning_content", "") + text

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, {}
        if "role" not in turn:
            return  # a thought nothing came of
        self.messages.append(turn)
        for call in turn.get("tool_calls", ()):
            output = self.outputs.get(call["id"])
            if output is None or output.used:
                raise Untranslatable(
                    f"No tool output found for function call '{call['id'][:100]}'.",
                    param=self._turn_place,
                    code="invalid_value",
                )
            output.used = True
            self.messages.append(
                {"role": "tool", "tool_call_id": call["id"], "content": output.content}
            )


def _forget_old_thoughts(messages: list[Message]) -> None:
    """Reasoning text goes back only inside the tool loop it belongs to: upstreams that want it
    there (DeepSeek) refuse it elsewhere, and others have no use for it."""
    last_user = max((at for at, each in enumerate(messages) if each["role"] == "user"), default=-1)
    for at, message in enumerate(messages):
        if at < last_user or not message.get("tool_calls"):
            message.pop("reasoning_content", None)


def _content(content: Any, place: str, *, role: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(
            f"Invalid value for '{place}': expected a string or an array.",
            param=place,
            code="invalid_type",
        )
    if not content:
        raise InvalidRequest(
            f"Invalid value for '{place}': it must not be empty.", param=place, code="invalid_value"
        )
    parts = [_part(part, f"{place}[{at}]") for at, part in enumerate(content)]
    if role in ("assistant", "tool") and all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _part(part: Any, place: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise InvalidRequest(
            f"Invalid value for '{place}': expected an object.", param=place, code="invalid_type"
        )
    match part.get("type"):
        case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
            return {"type": "text", "text": _text(part, "text", place)}
        case "refusal":
            return {"type": "refusal", "refusal": _text(part, "refusal", place)}
        case "input_image":
            return _image(part, place)
        case "input_file":
            return _file(part, place)
        case "input_audio":
            return _audio(part, place)
        case None:
            raise _missing(f"{place}.type")
        case kind:
            raise Untranslatable(
                f"Parts of the type '{str(kind)[:60]}' are not supported here.",
                param=f"{place}.type",
            )


def _image(part: dict[str, Any], place: str) -> dict[str, Any]:
    if part.get("image_url") is None:
        if part.get("file_id") is not None:
            raise Untranslatable(
                "An image by 'file_id' needs a provider that has the Responses API itself; send "
                "'image_url' instead.",
                param=f"{place}.file_id",
            )
        raise _missing(f"{place}.image_url")
    image = {"url": _text(part, "image_url", place)}
    if isinstance(part.get("detail"), str):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: dict[str, Any], place: str) -> dict[str, Any]:
    if part.get("file_url") is not None:
        raise Untranslatable(
            "A file by 'file_url' needs a provider that has the Responses API itself; send "
            "'file_data' instead.",
            param=f"{place}.file_url",
        )
    known = {
        name: _text(part, name, place)
        for name in ("file_data", "file_id", "filename")
        if part.get(name) is not None
    }
    if not {"file_data", "file_id"} & known.keys():
        raise _missing(f"{place}.file_data")
    return {"type": "file", "file": known}


def _audio(part: dict[str, Any], place: str) -> dict[str, Any]:
    audio = part.get("input_audio")
    if not isinstance(audio, dict):
        raise _missing(f"{place}.input_audio")
    place = f"{place}.input_audio"
    return {
        "type": "input_audio",
        "input_audio": {
            "data": _text(audio, "data", place),
            "format": _text(audio, "format", place),
        },
    }


def _text(fields: dict[str, Any], name: str, place: str) -> str:
    value = fields.get(name)
    if value is None:
        raise _missing(f"{place}.{name}")
    if not isinstance(value, str):
        raise InvalidRequest(
            f"Invalid value for '{place}.{name}': expected a string.",
            param=f"{place}.{name}",
            code="invalid_type",
        )
    return value


def _missing(place: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{place}'.", param=place, code="missing_required_parameter"
    )
