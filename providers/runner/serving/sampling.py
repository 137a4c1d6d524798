"""The next token out of a model's logits: the same arithmetic whatever engine computed them.

Order as in transformers and vLLM: bias and penalties, temperature, top-k, top-p, min-p. Frequency
and presence penalties count what was generated; the repetition penalty sees the prompt too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from providers.runner.serving.errors import Refusal

_LIKELY = 1024
"""Candidates that are sorted first: where top-p lies among them, as it nearly always does, a
vocabulary of 150,000 is never sorted whole (10 ms)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    temperature: float = 0.0
    """0: always the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    top_logprobs: int | None = None
    """None: log probabilities are not wanted; 0: only the chosen token's."""


class Sampled(NamedTuple):
    token: int
    logprob: float | None = None
    """Of the model's own distribution, before bias, penalties and temperature."""
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Picks one token after another of one answer."""

    def __init__(self, sampling: Sampling, prompt: Iterable[int]) -> None:
        self._sampling = sampling
        self._generated: Counter[int] = Counter()
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        seed = sampling.seed
        self._random = np.random.default_rng(None if seed is None else seed % 2**64)

    def pick(self, logits: Any, allowed: Any = None) -> Sampled:
        """`logits`: a one-dimensional float32 array, left as it is; `allowed`: one of bools, true
        for each token that may be picked. Raises Refusal where there is nothing to choose by:
        weights in a format that is not right for them compute such."""
        if not np.isfinite(logits.max()):
            raise Refusal("The model computed no usable probabilities.", status=500)
        scores = self._adjusted(logits)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        token = int(np.argmax(scores))
        if self._sampling.temperature > 0:
            token = self._draw(scores / self._sampling.temperature)
        self._generated[token] += 1
        self._seen.add(token)
        if self._sampling.top_logprobs is None:
            return Sampled(token)
        return _with_logprobs(token, logits, self._sampling.top_logprobs)

    def _adjusted(self, logits: Any) -> Any:
        options = self._sampling
        penalised = options.frequency_penalty or options.presence_penalty
        if not (options.logit_bias or penalised or self._seen):
            return logits
        scores = logits.copy()
        if options.repetition_penalty != 1.0 and self._seen:
            seen = np.fromiter(self._seen, dtype=np.int64)
            values = scores[seen]
            penalty = options.repetition_penalty
            scores[seen] = np.where(values > 0, values / penalty, values * penalty)
        if penalised and self._generated:
            tokens = np.fromiter(self._generated.keys(), dtype=np.int64)
            counts = np.fromiter(self._generated.values(), dtype=np.float32)
            scores[tokens] -= counts * options.frequency_penalty + options.presence_penalty
        for token, bias in options.logit_bias.items():
            if 0 <= token < len(scores):
                scores[token] += bias
        return scores

    def _draw(self, scores: Any) -> int:
        options = self._sampling
        candidates = None
        if 0 < options.top_k < len(scores):
            candidates = np.argpartition(scores, -options.top_k)[-options.top_k :]
            scores = scores[candidates]
        weights = np.exp((scores - scores.max()).astype(np.float64))
        weights /= weights.sum()
        if options.top_p < 1.0:
            kept = _most_likely(weights, options.top_p)
            weights = weights[kept]
            candidates = kept if candidates is None else candidates[kept]
        if options.min_p > 0:
            weights = np.where(weights >= options.min_p * weights.max(), weights, 0.0)
        sums = np.cumsum(weights)
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        at = min(at, len(sums) - 1)
        return at if candidates is None else int(candidates[at])


def _most_likely(weights: Any, share: float) -> Any:
    """Indices of the fewest tokens that together have at least `share` of the probability."""
    if len(weights) > _LIKELY:
        likely = np.argpartition(weights, -_LIKELY)[-_LIKELY:]
        if weights[likely].sum() >= share:
            return likely[_first(weights[likely], share)]
    return _first(weights, share)


def _first(weights: Any, share: float) -> Any:
    order = np.argsort(-weights, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    return order[before < share]


def _with_logprobs(token: int, logits: Any, count: int) -> Sampled:
    shifted = (logits - logits.max()).astype(np.float64)
    logprobs = shifted - np.log(np.exp(shifted).sum())
    count = min(count, len(logprobs))
    likely = np.argpartition(logprobs, -count)[-count:] if count else np.empty(0, dtype=np.int64)
    ordered = sorted(((int(each), float(logprobs[each])) for each in likely), key=lambda x: -x[1])
    return Sampled(token, float(logprobs[token]), tuple(ordered))
