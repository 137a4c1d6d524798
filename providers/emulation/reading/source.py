"""Text that is still coming, and what every reader of it stands on.

Readers are generators: where they need more text than there is they yield, and go on when it is
there. One grammar thus reads a whole answer and a stream that is cut anywhere, and cannot tell
which it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]

MAX_HELD = 1 << 20
"""Characters held back for what may still turn out to be a call. More are shown as text."""
_SPACE = re.compile(r"\s*")


class NotACall(Exception):
    """What looked like the beginning of a call is none: it is text."""


class NotOffered(NotACall):
    """It is the call of a tool that nobody offered."""


class Malformed(Exception):
    """A call of an offered tool that cannot be read. The text says why, for the model's eyes."""


class Source:
    """`text` from `at` on is unread. `mark` is where the reader goes back to when it finds that it
    has not read a call; without one, what was read is forgotten."""

    __slots__ = ("at", "ended", "mark", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.mark: int | None = None
        self.ended = False

    def add(self, text: str) -> None:
        """More text. Places in it stay good while there is a mark."""
        if self.mark is None:
            self.text, self.at = self.text[self.at :] + text, 0
        else:
            self.text += text

    def wait(self) -> Reading[bool]:
        """Until there is more text; False when there will be none. Raises NotACall where too much
        is being held."""
        if self.ended:
            return False
        if self.mark is not None and len(self.text) - self.mark > MAX_HELD:
            raise NotACall
        yield
        return True

    def peek(self) -> Reading[str]:
        """The next character, not taken; empty at the end."""
        while self.at >= len(self.text):
            if not (yield from self.wait()):
                return ""
        return self.text[self.at]

    def skip_space(self) -> Reading[str]:
        """The character after the space."""
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not (yield from self.wait()):
                return ""

    def take(self, *literals: str) -> Reading[str]:
        """The longest of `literals` that comes next, taken; empty when none does."""
        longest = max(map(len, literals))
        while True:
            ahead = self.text[self.at : self.at + longest]
            undecided = any(len(ahead) < len(each) and each.startswith(ahead) for each in literals)
            if not undecided or not (yield from self.wait()):
                break
        found = max((each for each in literals if ahead.startswith(each)), key=len, default="")
        self.at += len(found)
        return found

    def until(self, *stops: str) -> Reading[tuple[str, str]]:
        """The text up to the first of `stops`, both taken, and which it was: empty at the end. No
        stop begins with another."""
        tail = max(map(len, stops)) - 1
        looked = 0  # counted from `at`, which stays where it is until the end is found
        while True:
            places = [(self.text.find(each, self.at + looked), each) for each in stops]
            found = [place for place in places if place[0] >= 0]
            if found:
                end, stop = min(found)
                break
            looked = max(0, len(self.text) - self.at - tail)
            if not (yield from self.wait()):
                end, stop = len(self.text), ""
                break
        text = self.text[self.at : end]
        self.at = end + len(stop)
        return text, stop

    def flow(self, sink: Callable[[str], None], *stops: str) -> Reading[str]:
        """As `until`, but the text is put into `sink` as it comes."""
        tail = max(map(len, stops)) - 1
        while True:
            places = [(self.text.find(each, self.at), each) for each in stops]
            found = [place for place in places if place[0] >= 0]
            if found:
                end, stop = min(found)
                sink(self.text[self.at : end])
                self.at = end + len(stop)
                return stop
            safe = len(self.text) - (0 if self.ended else tail)
            if safe > self.at:
                sink(self.text[self.at : safe])
                self.at = safe
            if not (yield from self.wait()) and self.at >= len(self.text):
                return ""

    def matched(self, pattern: re.Pattern[str]) -> Reading[str]:
        """All that `pattern`, which matches character by character, takes from here on."""
        pieces = []
        while True:
            found = pattern.match(self.text, self.at)
            if found is not None:
                pieces.append(found[0])
                self.at = found.end()
            if self.at < len(self.text) or not (yield from self.wait()):
                return "".join(pieces)
