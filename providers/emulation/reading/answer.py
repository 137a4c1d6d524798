"""Reads an answer into text and calls: finds where calls may begin, and tells them from quotes.

What is quoted stays text: calls of tools that were not offered, what stands in inline code, in a
block quote or after a quotation mark, thoughts, and fences that are followed by more text. Bare
JSON and bare Python, which no tag announces, are looked for only where the family writes them.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from providers.emulation.reading.calls import Calls, Found, Schemas
from providers.emulation.reading.envelopes import ENDS, READERS, read_bare
from providers.emulation.reading.prose import Prose
from providers.emulation.reading.python_calls import read_python_calls
from providers.emulation.reading.source import (
    Malformed,
    NotACall,
    NotOffered,
    Reading,
    Source,
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a family writes without a tag, beside JSON at an answer's beginning, which all do."""

    json_anywhere: bool = False
    python: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that could not be read, and why. `broken_off` where the answer ended in the middle of
    it; `shown` where its beginning is out already."""

    reason: str
    broken_off: bool
    shown: bool


_FENCE = "```"
_THINK, _THOUGHT = "<think>", "</think>"
_TAGS = (*READERS, _FENCE, _THINK)
_BARE = ("{", "[")
_LONGEST = max(map(len, _TAGS))
_STARTS = frozenset(tag[:size] for tag in _TAGS for size in range(1, len(tag)))
_FIRST = frozenset(tag[0] for tag in _TAGS)
_TAGGED_PATTERN, _ANY_PATTERN = (
    re.compile("|".join(map(re.escape, sorted(tags, key=len, reverse=True))))
    for tags in (_TAGS, (*_TAGS, *_BARE))
)
_END_OF_QUOTE = re.compile("|".join([*map(re.escape, ENDS), r"\n[ \t]*\n"]))
_CLOSINGS = (*ENDS, "</function>", "</invoke>")
_INFO = re.compile(r"[\w+-]*[ \t]*")
_CODE_INFOS = frozenset({"python", "tool_code"})
_CALL_INFOS = _CODE_INFOS | {"", "json", "xml", "tool_call", "tool_calls"}
_SPACE = re.compile(r"\s+")


class AnswerReader:
    """Reads one answer. After each `feed` and after `finish`, which give what can be shown,
    `faults` holds what could not be read so far."""

    def __init__(self, schemas: Schemas, dialect: Dialect) -> None:
        self.faults: list[Fault] = []
        self._source = Source()
        self._calls = Calls(schemas, self._source)
        self._prose = Prose(self._calls, ends=_END_OF_QUOTE)
        self._dialect = dialect
        self._reading = self._read()

    @property
    def called(self) -> bool:
        """Whether a call was found so far."""
        return self._calls.begun > 0

    def feed(self, text: str) -> list[Found]:
        self._source.add(text)
        next(self._reading, None)
        return self._calls.taken()

    def read_whole(self, text: str) -> list[Found]:
        """All there is at once: a call that breaks off is then not shown at all."""
        self._source.add(text)
        return self.finish()

    def finish(self) -> list[Found]:
        self._source.ended = True
        next(self._reading, None)
        return self._calls.taken()

    def _read(self) -> Reading[None]:
        source, prose = self._source, self._prose
        while tag := (yield from self._next()):
            if tag in _BARE and not (self._dialect.json_anywhere or prose.fresh):
                self._pass_over(tag)
            elif prose.quotes:
                source.at += len(tag)
                prose.quote(tag)
            elif tag == _THINK:
                yield from self._passage(tag, _THOUGHT)
            elif tag != _FENCE:
                yield from self._attempt(tag)
            elif prose.begins_line:
                yield from self._fence()
            else:
                self._pass_over(tag)
        prose.end()

    # --- text -----------------------------------------------------------------------------------

    def _next(self) -> Reading[str]:
        """Says the text up to where a call may begin, and tells with what, not taken; empty at the
        end."""
        source, prose = self._source, self._prose
        while True:
            wants_bare = self._dialect.json_anywhere or prose.fresh
            pattern = _ANY_PATTERN if wants_bare else _TAGGED_PATTERN
            found = pattern.search(source.text, source.at)
            safe = len(source.text) if source.ended else _safe(source.text, source.at)
            end = min(found.start(), safe) if found is not None else safe
            prose.say(source.text[source.at : end])
            source.at = end
            if found is not None and end == found.start() < safe:
                return found[0]
            if not (yield from source.wait()) and source.at >= len(source.text):
                return ""

    def _pass_over(self, text: str) -> None:
        self._source.at += len(text)
        self._prose.say(text)

    def _passage(self, begin: str, end: str) -> Reading[None]:
        """Shows all from `begin` to `end`, as it comes, without looking into it."""
        source = self._source
        show = self._prose.think if begin == _THINK else self._prose.show
        show(begin)
        source.at += len(begin)
        while (place := source.text.find(end, source.at)) < 0:
            known = len(source.text) - (0 if source.ended else len(end) - 1)
            if known > source.at:
                show(source.text[source.at : known])
                source.at = known
            if not (yield from source.wait()) and source.at >= len(source.text):
                return
        show(source.text[source.at : place + len(end)])
        source.at = place + len(end)

    # --- calls ----------------------------------------------------------------------------------

    def _attempt(self, tag: str) -> Reading[None]:
        """Reads a call where one may begin; where there is none, the tag is text."""
        source, calls = self._source, self._calls
        back = _Back(self)
        try:
            if tag in _BARE:
                yield from self._bare()
            else:
                source.at += len(tag)
                yield from READERS[tag](source, calls)
        except NotACall as odd:
            if source.mark is None:
                yield from self._give_up(tag, back, "it calls a tool that is not offered")
            elif tag not in _BARE and self._breaks_off(odd, back.place + len(tag)):
                yield from self._give_up(tag, back, "it breaks off")
            else:
                back.go()
                self._pass_over(tag)
        except Malformed as fault:
            yield from self._give_up(tag, back, str(fault))
        else:
            source.mark = None
            yield from self._close(tagged=tag not in _BARE)

    def _bare(self) -> Reading[None]:
        before = self._source.at
        if (yield from self._source.peek()) == "[" and not self._dialect.python:
            self._source.at += 1
            if (yield from self._source.skip_space()) != "{":
                raise NotACall
            self._source.at = before
        yield from read_bare(self._source, self._calls, announced=False)

    def _breaks_off(self, odd: NotACall, body: int) -> bool:
        """Whether only the end of the answer kept a call from being read."""
        source = self._source
        is_end = source.ended and source.at >= len(source.text)
        return is_end and not isinstance(odd, NotOffered) and bool(source.text[body:].strip())

    def _close(self, *, tagged: bool) -> Reading[None]:
        """Passes over what ends a call."""
        source, space = self._source, ""
        while True:
            space += yield from source.matched(_SPACE)
            if tagged and (yield from source.take("}")):  # one too many is a common slip
                continue
            if not (yield from source.take(*ENDS)):
                break
            space = ""
        self._prose.space(space)

    def _give_up(self, tag: str, back: _Back, reason: str) -> Reading[None]:
        """A call that cannot be read comes as the text it is, if it is whole and nothing of it was
        shown as a call; one that breaks off does not come at all."""
        source, prose = self._source, self._prose
        at_end = (yield from source.peek()) == ""
        shown = not back.may_go
        self.faults.append(Fault(reason, broken_off=at_end, shown=shown))
        if shown or at_end:
            if not shown:
                back.take_back()
            source.at, source.mark = len(source.text), None
            return
        back.take_back()
        if tag in _BARE:
            back.go()
            self._pass_over(tag)
            return
        source.mark = back.place
        with contextlib.suppress(NotACall):  # raised where more would have to be held back
            yield from source.until(*_CLOSINGS)
        prose.show(source.text[back.place : source.at])
        source.mark = None

    # --- fences ---------------------------------------------------------------------------------

    def _fence(self) -> Reading[None]:
        """Calls in fences, held until it is known that no more text follows."""
        source, calls, alone = self._source, self._calls, self._prose.empty
        back = _Back(self)
        calls.hold()
        try:
            yield from self._fenced_calls(alone=alone)
        except (NotACall, Malformed) as odd:
            back.take_back()
            if isinstance(odd, Malformed) and alone:
                at_end = source.ended and source.at >= len(source.text)
                self.faults.append(Fault(str(odd), broken_off=at_end, shown=False))
                if at_end:
                    source.mark = None
                    return
            back.go()
            yield from self._passage(_FENCE, _FENCE)
        else:
            calls.release()
            source.mark = None
            yield from self._close(tagged=False)

    def _fenced_calls(self, *, alone: bool) -> Reading[None]:
        source = self._source
        while True:
            yield from source.take(_FENCE)
            info = (yield from source.matched(_INFO)).strip()
            if info not in _CALL_INFOS or not (yield from source.take("\n")):
                raise NotACall
            yield from self._inside_fence(python=info in _CODE_INFOS)
            if alone and info == "tool_code":
                return  # no quote begins an answer without a word
            before = source.at
            if not (yield from source.skip_space()):
                return
            if not (yield from source.take(_FENCE)):
                raise NotACall
            source.at = source.text.index(_FENCE, before)

    def _inside_fence(self, *, python: bool) -> Reading[None]:
        source, calls = self._source, self._calls
        begun = calls.begun
        while (following := (yield from source.skip_space())) != "`":
            if following in _BARE:
                yield from read_bare(source, calls, announced=False)
            elif tag := (yield from source.take(*READERS)):
                yield from READERS[tag](source, calls)
            elif python:
                yield from read_python_calls(source, calls)
            else:
                raise NotACall
            while (yield from source.skip_space()) and (yield from source.take(*ENDS)):
                pass
        if calls.begun == begun or not (yield from source.take(_FENCE)):
            raise NotACall


class _Back:
    """The way back to where an attempt began."""

    def __init__(self, reader: AnswerReader) -> None:
        self._source, self._calls = reader._source, reader._calls
        self.place = self._source.mark = self._source.at
        self._found = self._calls.found
        self._count = len(self._found)
        self._begun = self._calls.begun

    @property
    def may_go(self) -> bool:
        """Whether nothing of what was found since has been shown."""
        return self._calls.found is self._found or self._calls.begun == self._begun

    def take_back(self) -> None:
        """Undoes what was found since."""
        self._calls.release()
        if self._calls.found is self._found:
            del self._found[self._count :]
        else:  # held, and what came before it has been shown
            self._calls.found.clear()
        self._calls.begun = self._begun

    def go(self) -> None:
        self._source.at, self._source.mark = self.place, None


def _safe(text: str, at: int) -> int:
    """Up to where no tag begins that may be going on."""
    for start in range(max(at, len(text) - _LONGEST), len(text)):
        if text[start] in _FIRST and text[start:] in _STARTS:
            return start
    return len(text)
