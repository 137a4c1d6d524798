"""Stop strings in a stream of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.runner.serving.stops import StopScanner

pytestmark = pytest.mark.once

LETTERS = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def said(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    text = ""
    for piece in pieces:
        out, stopped = scanner.feed(piece)
        text += out
        if stopped:
            return text, True
    return text + scanner.rest(), False


def test_text_without_stop_strings_is_not_held_back() -> None:
    assert StopScanner(()).feed("anything") == ("anything", False)


def test_only_what_can_become_a_stop_string_is_held_back() -> None:
    scanner = StopScanner(["END"])
    assert scanner.feed("the E") == ("the ", False)
    assert scanner.feed("N") == ("", False)
    assert scanner.feed("ough") == ("ENough", False)


def test_a_stop_string_in_pieces_ends_the_text_before_it() -> None:
    assert said(["END"], ["to the E", "N", "D and on"]) == ("to the ", True)


def test_the_first_of_several_stop_strings_counts() -> None:
    assert said(["c", "b"], ["abc"]) == ("a", True)


def test_a_stop_string_that_begins_within_a_failed_one_is_found() -> None:
    assert said(["aab"], ["a", "a", "a", "b"]) == ("a", True)


@given(LETTERS, STOPS, st.lists(st.integers(1, 5), max_size=40))
def test_pieces_change_nothing(text: str, stops: list[str], sizes: list[int]) -> None:
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    pieces.append(rest)
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    expected = (text, False) if first < 0 else (text[:first], True)
    result = said(stops, pieces)
    # With pieces a shorter stop string may be seen before a longer one that began earlier.
    assert result == expected or (result[1] and expected[1] and result[0].startswith(expected[0]))
