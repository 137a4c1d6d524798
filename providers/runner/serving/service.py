"""One loaded model and who may use it when."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from providers.runner.serving.engine import Engine
from providers.runner.serving.errors import Cancelled, Refusal
from providers.runner.serving.generation import Generation, Job, Piece
from providers.runner.serving.grammar import Grammars
from providers.runner.serving.sampling import Sampling
from providers.runner.serving.tokens import Prompts
from providers.runner.serving.turns import Turns

logger = logging.getLogger("providers.runner")

PROMPT_TIMEOUT_S = 60.0
"""A chat template may hold an endless loop; no thread can be stopped from outside."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What requests are answered with beside the model's own output."""

    name: str
    context: int
    ends: frozenset[int]
    """Tokens that end an answer."""
    default_max_tokens: int
    defaults: Sampling
    """The model's own sampling, for what a request leaves open."""


class Service:
    """The engine computes in one thread, prompts are read in another, with a tokenizer of its own:
    a tokenizer may not be used by two threads at once."""

    def __init__(
        self,
        facts: ModelFacts,
        engine: Engine,
        *,
        prompts: Prompts,
        grammars: Grammars,
        tokenizer: Any,
        engine_thread: ThreadPoolExecutor,
        most_waiting: int,
    ) -> None:
        self.facts = facts
        self.prompts = prompts
        self.grammars = grammars
        self._engine = engine
        self._tokenizer = tokenizer
        self._engine_thread = engine_thread
        self._prompt_thread = ThreadPoolExecutor(1, "prompts")
        self.turns = Turns(most_waiting=most_waiting)

    async def read_prompt(self, read: Callable[[], T]) -> T:
        """Runs what reads a prompt without holding anybody up."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._prompt_thread, _watched, read)

    async def generate(self, job: Job) -> AsyncGenerator[Piece]:
        """The pieces of one answer, when its turn has come. Closing the generator ends the
        computation at the next token. Raises Refusal."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()

        def emit(piece: Piece | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def compute() -> None:
            try:
                self._engine.generate(job.prompt, generation, most=job.max_tokens)
            finally:
                emit(None)

        generation = Generation(job, tokenizer=self._tokenizer, ends=self.facts.ends, emit=emit)
        async with self.turns.turn():
            computing = loop.run_in_executor(self._engine_thread, compute)
            try:
                while (piece := await pieces.get()) is not None:
                    yield piece
                await _told(computing)
            finally:
                generation.cancel()
                with suppress(Exception):
                    await asyncio.shield(computing)  # the turn ends when the computation has

    async def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """A vector of length one for each text, as llama.cpp and OpenAI scale them."""
        loop = asyncio.get_running_loop()
        vectors: list[list[float]] = []
        async with self.turns.turn():
            for tokens in texts:  # one by one: who leaves waits for one text only
                run = loop.run_in_executor(self._engine_thread, self._engine.embed, tokens)
                vectors.append(_scaled(await _told(run)))
        return vectors


def _watched(read: Callable[[], T]) -> T:
    """A template that never ends costs this process: the next one starts without it."""
    watch = threading.Timer(PROMPT_TIMEOUT_S, _give_up)
    watch.daemon = True
    watch.start()
    try:
        return read()
    finally:
        watch.cancel()


def _give_up() -> None:
    logger.error("reading a prompt took more than %d s", PROMPT_TIMEOUT_S)
    os._exit(1)


async def _told(run: asyncio.Future[T]) -> T:
    """The result of what the engine did; its failure in words for the caller."""
    try:
        return await run
    except (Refusal, Cancelled):
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            raise Refusal(
                "There is not enough memory for this request.", status=503, code="no_memory"
            ) from None
        # Without the error's own words, which may hold a prompt's.
        trace = "".join(traceback.format_tb(error.__traceback__))
        logger.error("the engine failed with %s\n%s", type(error).__name__, trace)
        raise Refusal("The model failed while it computed the answer.", status=500) from None


def _scaled(vector: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(each * each for each in vector))
    if not math.isfinite(length):
        raise Refusal("The model computed no usable vector.", status=500)
    return [each / length for each in vector] if length else vector
