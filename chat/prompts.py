"""What text completions and embeddings are asked for: texts, or the tokens of texts."""

from __future__ import annotations

Prompt = str | list[str | int | list[int]]
"""A text, texts, the tokens of a text, or those of several: `require_one_kind` says which."""


def require_one_kind(name: str, prompt: Prompt) -> None:
    """Raises ValueError for a list that is empty, holds an empty one, or mixes texts with tokens:
    two upstreams would read two things in it."""
    if isinstance(prompt, str):
        return
    if not prompt:
        raise ValueError(f"`{name}` must not be empty")
    if len(set(map(type, prompt))) > 1:
        raise ValueError(f"`{name}` must hold texts, tokens or lists of tokens, not a mixture")
    for tokens in _lists_of_tokens(prompt):
        if not tokens:
            raise ValueError(f"`{name}` must hold no empty list of tokens")
        if min(tokens) < 0:
            raise ValueError(f"`{name}` must hold no negative token")


def count_token_ids(prompt: Prompt) -> int | None:
    """How many tokens a prompt holds that came as tokens; None for what came as text."""
    if isinstance(prompt, str) or isinstance(prompt[0], str):
        return None
    return sum(map(len, _lists_of_tokens(prompt)))


def separate_inputs(prompt: Prompt) -> list[str | list[int]]:
    """The texts, or the tokens of each, one by one."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [*_lists_of_tokens(prompt)]
    return [each for each in prompt if not isinstance(each, int)]


def _lists_of_tokens(prompt: list[str | int | list[int]]) -> list[list[int]]:
    if isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [tokens for tokens in prompt if isinstance(tokens, list)]
