"""The tags that begin a call, of every family we know, and what is read after each.

A tag is read whatever family was asked: models mix them up, and most of what follows tells its own
shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from providers.emulation.reading.calls import Calls
from providers.emulation.reading.json_calls import Beginning, read_arguments, read_json_calls
from providers.emulation.reading.named_calls import read_named_call
from providers.emulation.reading.python_calls import read_python_calls
from providers.emulation.reading.source import NotACall, Reading, Source
from providers.emulation.reading.xml_calls import OPENINGS, read_xml_call

Reader = Callable[[Source, Calls], Reading[None]]

_PLAIN = (
    *("<tool_call>", "<|tool_call|>", "<|tool_call>", "<tool_calls>", "<function_call>"),
    *("<function_calls>", "<|function_call|>", "<longcat_tool_call>", "<|python_tag|>"),
    *("<|python_start|>", "<|tool_call_start|>", "<|tools_prefix|>", "[TOOL_CALLS]"),
    *("<start_function_call>", "<minimax:tool_call>", "<｜DSML｜function_calls>"),
    *("<|action_start|><|plugin|>", "<|message_sep|>\n\nfunction call<|role_sep|>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool_calls_begin｜>"),
    "<｜tool_call_begin｜>",
)
ENDS = (
    *("</tool_call>", "</|tool_call|>", "<|/tool_call|>", "<tool_call|>", "</tool_calls>"),
    *("</function_call>", "</function_calls>", "</longcat_tool_call>", "<|python_end|>"),
    *("<|tool_call_end|>", "<|tools_suffix|>", "<end_function_call>", "</minimax:tool_call>"),
    *("</｜DSML｜function_calls>", "<|action_end|>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    *("<｜tool_call_end｜>", "<｜tool_sep｜>", "<｜tool_calls_end｜>", "<|call|>", "</s>"),
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<｜end▁of▁sentence｜>"),
)
"""What may follow a call, none of it with a meaning of its own."""
_HARMONY = ("<|start|>assistant", "<|channel|>")
_FUNCTOOLS = "functools["
_HEADER = re.compile(r"[^<]*")
_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")


def read_body(source: Source, calls: Calls) -> Reading[None]:
    """What stands after a tag that says no more than that a call comes; a doubled one too. Raises
    NotACall and Malformed."""
    following = yield from source.skip_space()
    while following == "<":
        tag = yield from source.take(*READERS)
        if tag not in _PLAIN:
            yield from READERS.get(tag, _no_call)(source, calls)
            return
        following = yield from source.skip_space()
    if following in ("{", "["):
        yield from read_bare(source, calls, announced=True)
    elif following:
        yield from read_named_call(source, calls)
    else:
        raise NotACall


def read_bare(source: Source, calls: Calls, *, announced: bool) -> Reading[None]:
    """JSON or a list in Python. Raises NotACall and Malformed."""
    before = source.at  # there is a mark: places stay good
    if (yield from source.peek()) == "[":
        source.at += 1
        following = yield from source.skip_space()
        source.at = before
        if following != "{":
            yield from read_python_calls(source, calls)
            return
    yield from read_json_calls(source, calls, bare=not announced)


def _no_call(source: Source, calls: Calls) -> Reading[None]:
    raise NotACall
    yield


def _read_functools(source: Source, calls: Calls) -> Reading[None]:
    source.at -= 1
    yield from read_json_calls(source, calls, bare=True)


def _read_harmony(source: Source, calls: Calls) -> Reading[None]:
    """`commentary to=functions.NAME <|constrain|>json<|message|>{…}`."""
    header = ""
    mark = ""
    while mark != "<|message|>":
        header += yield from source.matched(_HEADER)
        mark = yield from source.take("<|channel|>", "<|constrain|>", "<|message|>")
        if not mark:
            raise NotACall
        header += " "
    recipient = _RECIPIENT.search(header)
    if recipient is None:
        raise NotACall
    name = calls.name(recipient[1])
    yield from source.skip_space()
    yield from read_arguments(source, Beginning(calls, name))


READERS: dict[str, Reader] = {
    **dict.fromkeys(_PLAIN, read_body),
    **dict.fromkeys(OPENINGS, read_xml_call),
    **dict.fromkeys(_HARMONY, _read_harmony),
    _FUNCTOOLS: _read_functools,
}
