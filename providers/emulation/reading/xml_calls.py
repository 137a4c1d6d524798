"""Calls written as elements: `<function=NAME><parameter=K>raw text</parameter></function>`, as
Qwen3-Coder does, or with attributes, as MiniMax, MiniCPM, Step and DeepSeek V3.2 do."""

from __future__ import annotations

import re

from providers.emulation.reading.calls import Calls
from providers.emulation.reading.members import Members
from providers.emulation.reading.source import Malformed, NotACall, Reading, Source

_PREFIXES = ("", "steptml:", "antml:", "｜DSML｜")
OPENINGS = (
    "<function=",
    "<function name=",
    *(f"<{prefix}invoke name=" for prefix in _PREFIXES),
)
_CLOSINGS = ("</function>", *(f"</{prefix}invoke>" for prefix in _PREFIXES))
_PARAMETERS = (
    "<parameter=",
    "<param name=",
    *(f"<{prefix}parameter name=" for prefix in _PREFIXES),
)
_ENDS = ("</param>", *(f"</{prefix}parameter>" for prefix in _PREFIXES))
_UNCLOSED = ("\n<parameter=", "\n</function>")
"""What ends a raw text whose own end the model forgot."""
_NAME = re.compile(r"[^>\n<]*")


def read_xml_call(source: Source, calls: Calls) -> Reading[None]:
    """One element, its opening taken up to the name. Raises NotACall and Malformed."""
    name = calls.name((yield from _name(source)))
    members = Members(calls, name)
    while True:
        yield from source.skip_space()
        if (yield from source.take(*_CLOSINGS)):
            members.end()
            return
        if not (yield from source.take(*_PARAMETERS)):
            raise Malformed(f"the call of {name} is not closed")
        parameter = yield from _name(source)
        end = yield from members.read(source, parameter, *_ENDS, *_UNCLOSED, in_lines=True)
        if end in _UNCLOSED:
            source.at -= len(end)


def _name(source: Source) -> Reading[str]:
    """What stands up to `>`, without quotes and further attributes."""
    written = yield from source.matched(_NAME)
    if not (yield from source.take(">")):
        raise NotACall
    quote = written[:1]
    if quote and quote in "\"'":
        return written[1:].partition(quote)[0].strip()
    return written.strip()
