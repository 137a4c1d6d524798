"""One answer being made: the side of it that the engine's thread sees."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from providers.runner.serving.errors import Cancelled
from providers.runner.serving.grammar import Grammar
from providers.runner.serving.sampling import Sampled, Sampler, Sampling
from providers.runner.serving.stops import StopScanner
from providers.runner.serving.tokens import Detokeniser

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be generated after `prompt`: at most `max_tokens`."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = Sampling()
    stops: Sequence[str] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain. The last piece says why it is the last, and how many tokens the whole
    answer has, the one that ended it included, as llama.cpp counts."""

    text: str
    sampled: tuple[Sampled, ...] = ()
    """The tokens since the last piece, where log probabilities are wanted."""
    finish: Finish | None = None
    tokens: int = 0


class Generation:
    """Turns logits into tokens and tokens into pieces, and ends where the job says."""

    def __init__(
        self, job: Job, *, tokenizer: Any, ends: Collection[int], emit: Callable[[Piece], None]
    ) -> None:
        self._job = job
        self._ends = () if job.ignore_eos else ends
        self._emit = emit
        self._sampler = Sampler(job.sampling, job.prompt)
        self._text = Detokeniser(tokenizer)
        self._stops = StopScanner(job.stops)
        self._constraint = job.grammar.start() if job.grammar is not None else None
        self._sampled: list[Sampled] = []
        self._count = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """May be called from any thread."""
        self._cancelled.set()

    def check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def next_token(self, logits: Any) -> int | None:
        self.check()
        constraint = self._constraint
        sampled = self._sampler.pick(logits, constraint and constraint.allowed(len(logits)))
        self._count += 1
        if self._job.sampling.top_logprobs is not None:
            self._sampled.append(sampled)
        if sampled.token in self._ends:
            self._end("stop")
            return None
        if constraint is not None:
            constraint.advance(sampled.token)
        text, stopped = self._stops.feed(self._text.add(sampled.token))
        if stopped:
            self._say(text, "stop")
            return None
        if constraint is not None and constraint.is_complete:
            self._end("stop", text)
            return None
        if self._count >= self._job.max_tokens:
            self._end("length", text)
            return None
        if text:
            self._say(text)
        return sampled.token

    def _end(self, finish: Finish, text: str = "") -> None:
        """Says what was held back too, in which a stop string may be met after all."""
        more, stopped = self._stops.feed(self._text.rest())
        if stopped:
            self._say(text + more, "stop")
        else:
            self._say(text + more + self._stops.rest(), finish)

    def _say(self, text: str, finish: Finish | None = None) -> None:
        sampled, self._sampled = tuple(self._sampled), []
        self._emit(Piece(text, sampled, finish, self._count))
