"""What an answer may look like: a JSON schema as the tokens that may follow one another.

llguidance compiles the schema and says after each token which can be next. What it cannot hold an
answer to it refuses, and nothing of a schema is passed over. Its limits bound what a hostile schema
costs: nothing tried took half a second to compile, and most take a millisecond (llguidance 1.9.1,
2026-11-25).
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import numpy as np

from providers.runner.serving.errors import Refusal
from providers.runner.serving.schemas import narrowed, written

ANY_OBJECT: dict[str, Any] = {"type": "object"}

_ON_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Where white space is free, a small model may put out nothing else until its limit."""


class Grammar:
    """A compiled schema."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def start(self) -> Constraint:
        """What holds one answer to it."""
        return Constraint(self._matcher.deep_copy())


class Constraint:
    """One answer on its way through a grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> Any:
        """Which of `size` tokens may be next, as a numpy array of bools. Raises Refusal."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
        if self._matcher.is_error() or not allowed.any():
            raise self._failure()
        # Some models compute scores of more tokens than their tokenizer has.
        return np.pad(allowed, (0, size - len(allowed)))

    def advance(self, token: int) -> None:
        """Takes the token that was chosen. Raises Refusal."""
        if not self._matcher.consume_token(token):
            raise self._failure()

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow but the end."""
        return bool(self._matcher.is_stopped())

    def _failure(self) -> Refusal:
        reason = _first_line(self._matcher.get_error()) or "no token fits"
        return Refusal(f"The answer could not be held to its format: {reason}.", status=500)


class Grammars:
    """Compiles schemas for one tokenizer; to be used in one thread."""

    def __init__(self, tokenizer: Any, *, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = sorted(ends)
        self._vocabulary: Any = None

    def compile(self, schema: dict[str, Any], *, param: str) -> Grammar:
        """Raises Refusal that says what of the schema an answer cannot be held to."""
        guidance = importlib.import_module("llguidance")
        written(schema, param=param)  # not too deep for what follows
        text = written(narrowed(schema), param=param)
        grammar = guidance.LLMatcher.grammar_from_json_schema(text, overrides=_ON_ONE_LINE)
        matcher = guidance.LLMatcher(self._tokens(guidance), grammar, log_level=0)
        if matcher.is_error():
            raise Refusal(
                "This model's answers cannot be held to the schema: "
                f"{_first_line(matcher.get_error())}.",
                param=param,
                code="schema_not_supported",
            )
        return Grammar(matcher)

    def _tokens(self, guidance: Any) -> Any:
        """The tokenizer as llguidance reads it, made at first use: it takes a second with the
        largest vocabularies."""
        if self._vocabulary is None:
            try:
                self._vocabulary = guidance.LLTokenizer(
                    self._tokenizer.backend_tokenizer.to_str(), eos_token=self._ends or None
                )
            except (AttributeError, ValueError):  # one that is not of the library `tokenizers`
                raise Refusal(
                    "This model's answers cannot be held to a format: llguidance cannot read its "
                    "tokenizer.",
                    param="response_format",
                ) from None
        return self._vocabulary


def _first_line(error: str) -> str:
    """llguidance shows the parser's state in further lines."""
    return error.partition("\n<")[0].strip().replace("\n", " ")[:300].rstrip(". ")
