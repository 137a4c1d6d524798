"""Texts that show tool syntax and call nothing: they come through as they are.

What counts as a quote: a call of a tool that was not offered; what stands in inline code, after a
quotation mark, in a block quote, in a thought; and a fence that is followed by more text, or that
is of another language. A fence that ends the answer, with nothing in it but calls of offered tools,
is a call: that is how models write them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from providers.emulation import writing
from providers.emulation.writing import Call, Envelope
from tests.emulation.reading import ALL_DIALECTS, read

pytestmark = pytest.mark.once

ENVELOPES = {name: each for name, each in vars(writing).items() if isinstance(each, Envelope)}
OFFERED = ("get_weather", "now")
_CALLS = [Call("get_weather", {"city": "Paris", "days": 2})]
_OTHERS = [Call("launch_rocket", {"to": "the Moon"})]


class Quoted(NamedTuple):
    text: str
    about: str


def prose(shown: str) -> str:
    return f"A model that has this tool would write {shown} and wait for what comes of it."


def inline_code(shown: str) -> str:
    return f"The syntax is `{shown}`, all in one line of the answer."


def long_inline_code(shown: str) -> str:
    return f"As you asked, with two ticks: ``{shown}`` is what the template wants."


def double_quotes(shown: str) -> str:
    return f'In the log I see "{shown}", which the parser took for text.'


def single_quotes(shown: str) -> str:
    return f"The string '{shown}' is what your test compares."


def curly_quotes(shown: str) -> str:
    return f"The manual says “{shown}” on its third page."


def guillemets(shown: str) -> str:
    return f"Le manuel dit «{shown}» sans autre explication."


def fence_before_text(shown: str) -> str:
    return f"An example of a call:\n\n```json\n{shown}\n```\n\nChange the city and it works."


def bare_fence_before_text(shown: str) -> str:
    return f"So it looks on the wire:\n```\n{shown}\n```\nNothing else is sent."


def fence_of_text(shown: str) -> str:
    return f"Put this into your prompt:\n\n```text\n{shown}\n```"


def fence_of_markdown(shown: str) -> str:
    return f"The README has it so:\n\n```markdown\nTo call a tool:\n{shown}\n```\n"


def fence_with_a_comment(shown: str) -> str:
    return f"Your agent's loop:\n```python\n# the model answers:\n{shown}\n```"


def block_quote(shown: str) -> str:
    quoted = shown.replace("\n", "\n> ")
    return f"You wrote:\n\n> {quoted}\n\nThat was not meant as a request, was it?"


def thought(shown: str) -> str:
    return f"<think>I could answer {shown} but need not.</think>It is sunny, I am told."


QUOTES: tuple[Callable[[str], str], ...] = (
    inline_code,
    long_inline_code,
    double_quotes,
    single_quotes,
    curly_quotes,
    guillemets,
    fence_before_text,
    bare_fence_before_text,
    fence_of_text,
    fence_of_markdown,
    fence_with_a_comment,
    block_quote,
    thought,
)
FENCE_SAFE = (block_quote, thought)
"""What a fence, which is a family's envelope too, can be quoted in."""


def quotes() -> Iterator[Quoted]:
    for name, envelope in ENVELOPES.items():
        shown = envelope.write_calls(_CALLS)
        is_fence = shown.startswith("```")
        for context in FENCE_SAFE if is_fence else QUOTES:
            yield Quoted(context(shown), f"{name} in {context.__name__}")
        if is_fence:
            yield Quoted(f"You may write:\n{shown}\nand then wait.", f"{name} before text")
        unknown = envelope.write_calls(_OTHERS)
        for context in (prose, *QUOTES):
            yield Quoted(context(unknown), f"{name} not offered in {context.__name__}")
        yield Quoted(unknown, f"{name} not offered, alone")


CASES = list(quotes())
OTHER_TEXTS = (
    "Use the <tool_call> tag to call tools, and close it with </tool_call>.",
    "The tags <tool_call> and <|tool_call|> differ by family; [TOOL_CALLS] is Mistral's.",
    'In JSON: {"name": "Ada", "parameters": {"age": 36}} is a person.',
    '{"name": "get_weather"} is how the tool is called in the list.',
    "[get_weather](https://example.org/docs) and [now](#now) are documented.",
    "[1, 2, 3] and [x for x in y] are lists.",
    "Compare a<b, c<d and the tag <t.",
    'The call get_weather(city="Paris") is Python.',
    "<function=NAME><parameter=KEY>value</parameter></function> is the form.",
    "A functools[partial] is no call, nor is functools.",
    "<|channel|>analysis<|message|>get_weather would help here.<|end|>",
    "Ends with the beginning of a tag <tool_c",
    "Ends with a tag <tool_call>",
    "Ticks `` ` `` and ``` in a line do not matter, <nor> do < these.",
)


def test_there_are_at_least_two_hundred_of_them_over_every_family() -> None:
    assert len({case.text for case in CASES}) >= 200
    assert len(ENVELOPES) == 12
    print(f"{len(CASES)} quotes of {len(ENVELOPES)} envelopes, {len(ALL_DIALECTS)} dialects each")


@pytest.mark.parametrize("dialect", ALL_DIALECTS, ids=("plain", "json", "python"))
def test_what_is_quoted_is_never_a_call(dialect: object) -> None:
    assert isinstance(dialect, type(ALL_DIALECTS[0]))
    for text, about in [*CASES, *(Quoted(text, text) for text in OTHER_TEXTS)]:
        for pieces in (text, list(text)):
            told = read(pieces, OFFERED, dialect)
            assert (told.calls, told.faults) == ([], []), about
            assert told.content == text, about


def test_the_same_calls_unquoted_are_calls() -> None:
    """What is tested above is the quoting, not a reader that reads nothing."""
    for name, envelope in ENVELOPES.items():
        shown = envelope.write_calls(_CALLS)
        told = read(shown, OFFERED, ALL_DIALECTS[2])
        assert [call for call, _ in told.calls] == ["get_weather"], name


def test_a_call_after_a_quote_is_a_call() -> None:
    told = read(
        'You know `<tool_call>{"name": "now", "arguments": {}}</tool_call>` from before.\n\n'
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        OFFERED,
    )
    assert told.values == [("now", {})]
    assert told.content.startswith("You know `<tool_call>")
