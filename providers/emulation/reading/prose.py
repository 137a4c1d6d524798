"""The text around calls: what of it can be shown, and whether what comes next is quoted in it."""

from __future__ import annotations

import re

from providers.emulation.reading.calls import Calls

MAX_SPACE = 24
"""Space held back until it is known what follows: between a text and a call it is dropped."""
_QUOTES = frozenset("`\"'\u201c\u2018\u201e\u00ab\u2039")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_RUN = re.compile(r"`+")


class Prose:
    """Text said so far. `empty` until something was said that is not space or thinking; `fresh`
    the same since the last call."""

    def __init__(self, calls: Calls, *, ends: re.Pattern[str]) -> None:
        self.empty = True
        self.fresh = True
        self._calls = calls
        self._ends = ends
        self._space = ""
        self._line = ""
        """The beginning of the current line, as far as it tells of a block quote or a fence."""
        self._last = ""
        self._ticks = 0
        """Backticks at the end, which may become more."""
        self._code = 0
        """How many opened the inline code we are in."""
        self._quoting = False

    def say(self, text: str) -> None:
        """Shows `text`, but for the space at its end."""
        if text:
            self._note(text)
            self.show(text)

    def show(self, text: str) -> None:
        """Shows what is not to be looked into, as the inside of a fence."""
        self.think(text)
        if self.fresh and text.strip():
            self.empty = self.fresh = False

    def think(self, text: str) -> None:
        """Shows a thought: the answer proper may still begin."""
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if len(self._space) > MAX_SPACE:
            shown, self._space = text, ""
        self._calls.say(shown)
        self._last = text[-1:]

    def space(self, text: str) -> None:
        """Space after a call: shown if there is text before and after it."""
        self._space = "" if self.empty else text
        self._line, self._last = "", text[-1:]
        self.fresh = True

    def end(self) -> None:
        """The answer's own end: the space there is its own, unless a call came."""
        if not self._calls.begun:
            self._calls.say(self._space)
        self._space = ""

    @property
    def begins_line(self) -> bool:
        return not self._line.strip()

    @property
    def quotes(self) -> bool:
        """Whether what comes next is quoted: in inline code, after a quotation mark, in a block
        quote, or in the rest of what was quoted so."""
        self._close_ticks()
        return bool(
            self._code
            or self._quoting
            or self._last in _QUOTES
            or self._line.lstrip().startswith(">")
        )

    def quote(self, tag: str) -> None:
        """Says the beginning of a quoted call; the rest is quoted up to its end."""
        self.say(tag)
        self._quoting = True

    def _note(self, text: str) -> None:
        if self._quoting and self._ends.search(self._last + text):
            self._quoting = False
        paragraphs = _PARAGRAPH.split(text)
        if len(paragraphs) > 1:
            self._code = self._ticks = 0
        self._note_code(paragraphs[-1])
        before, broken, line = text.rpartition("\n")
        self._line = line[:8] if broken else (self._line + line)[:8]

    def _note_code(self, text: str) -> None:
        """Inline code ends with as many backticks as it began with."""
        at = 0
        for run in _RUN.finditer(text):
            if run.start() > 0 or at > 0:
                self._close_ticks()
            self._ticks += run.end() - run.start()
            at = run.end()
        if at < len(text):
            self._close_ticks()

    def _close_ticks(self) -> None:
        if self._ticks:
            if not self._code:
                self._code = self._ticks
            elif self._code == self._ticks:
                self._code = 0
            self._ticks = 0
