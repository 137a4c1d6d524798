"""Between text and tokens: prompts in, answers out.

The tokenizer is transformers' own, which mlx-lm uses too; it renders chat templates in a sandbox
(jinja2's ImmutableSandboxedEnvironment), as a template is code that came with the weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from providers.runner.serving.errors import Refusal

_MAX_PENDING = 16
"""Tokens that may wait for the rest of a character. No character has more than four bytes; what
waits longer is no UTF-8 at all."""


def open_tokenizer(folder: Path) -> Any:
    """Never runs code of the model's, never asks a hub. Raises OSError and ValueError."""
    transformers = importlib.import_module("transformers")
    return transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


class Prompts:
    """What callers say, as tokens. Raises Refusal for what the model cannot be asked."""

    def __init__(self, tokenizer: Any, *, context: int) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._longest = max((len(token) for token in tokenizer.get_vocab()), default=1)
        self._most_characters = context * self._longest

    def of_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        return self._encode(self._rendered(messages), special=False, param="messages")

    def count_chat(self, messages: list[dict[str, Any]]) -> int:
        """Also of a prompt that is longer than the context; of one that is so by far, the least it
        can have."""
        text = self._rendered(messages)
        if len(text) > self._most_characters:
            return len(text) // self._longest
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        errors = importlib.import_module("jinja2.exceptions")
        if not self._tokenizer.chat_template:
            raise Refusal("This model has no chat template: it completes text, and does not chat.")
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False
                )
            )
        except errors.SecurityError:
            raise Refusal(
                "The chat template of this model does what a template may not do.",
                param="messages",
                code="template_forbidden",
            ) from None
        except errors.TemplateError as error:
            # A template says so itself, for example when roles do not alternate.
            raise Refusal(
                f"The chat template of this model refuses the messages: {error.message}",
                param="messages",
            ) from None
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError):
            raise Refusal(
                "The chat template of this model cannot render the messages.", param="messages"
            ) from None

    def of_text(self, text: str, *, param: str = "prompt") -> list[int]:
        return self._encode(text, special=True, param=param)

    def of_ids(self, ids: Sequence[int], *, param: str = "prompt") -> list[int]:
        if any(not 0 <= each < len(self._tokenizer) for each in ids):
            raise Refusal("There are token ids that this model does not have.", param=param)
        return self._fitting(list(ids), param=param)

    def text_of(self, ids: Sequence[int]) -> str:
        return decoded(self._tokenizer, ids)

    def _encode(self, text: str, *, special: bool, param: str) -> list[int]:
        if len(text) > self._most_characters:  # it need not be read to know
            raise _too_long(self._context, param=param)
        ids = self._tokenizer.encode(text, add_special_tokens=special)
        return self._fitting(list(ids), param=param)

    def _fitting(self, ids: list[int], *, param: str) -> list[int]:
        if not ids:
            raise Refusal("The prompt is empty.", param=param)
        if len(ids) > self._context:
            raise _too_long(self._context, tokens=len(ids), param=param)
        return ids


def too_long_to_answer(context: int, *, param: str) -> Refusal:
    """For a prompt that fills the context to the last token."""
    return _too_long(context, tokens=context, param=param)


def _too_long(context: int, *, param: str, tokens: int | None = None) -> Refusal:
    size = "more" if tokens is None else f"{tokens}"
    return Refusal(
        f"This model's context holds {context} tokens, prompt and answer together; the prompt has "
        f"{size}.",
        param=param,
        code="context_length_exceeded",
    )


class Detokeniser:
    """Text of the tokens so far, given out as soon as it is certain.

    Tokens are not decoded one by one: one may hold part of a character, or mean another text after
    its predecessor (a leading space). What came before is decoded again with each, but only back to
    where the last text began.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._known = 0
        """How many of the tokens' text was given out."""

    def add(self, token: int) -> str:
        """The text that is certain with this token; empty inside a character."""
        self._tokens.append(token)
        before, after = self._texts()
        if after.endswith("\ufffd") and len(self._tokens) - self._known < _MAX_PENDING:
            return ""
        self._tokens = self._tokens[self._known :]
        self._known = len(self._tokens)
        return after[len(before) :]

    def rest(self) -> str:
        """What is left at the end: half a character becomes a replacement character."""
        before, after = self._texts()
        self._known = len(self._tokens)
        return after[len(before) :]

    def _texts(self) -> tuple[str, str]:
        return (
            decoded(self._tokenizer, self._tokens[: self._known]),
            decoded(self._tokenizer, self._tokens),
        )


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text without the tokens that stand for no text."""
    if not ids:
        return ""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
