"""Pieces as OpenAI's chunks and completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from providers.runner.serving.errors import Refusal
from providers.runner.serving.generation import Piece
from providers.runner.serving.sampling import Sampled
from providers.runner.serving.tokens import Prompts

DONE = b"data: [DONE]\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def error_body(refusal: Refusal) -> dict[str, Any]:
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


class ChatAnswer:
    """One chat completion, whole or in chunks; its choices are made one after another."""

    def __init__(self, model: str, prompts: Prompts) -> None:
        self._prompts = prompts
        self._opened: set[int] = set()
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def chunks(self, index: int, piece: Piece) -> Iterator[bytes]:
        if index not in self._opened:
            self._opened.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""})
        if piece.text or piece.sampled:
            logprobs = self._logprobs(piece.sampled)
            yield self._chunk(index, {"content": piece.text}, logprobs=logprobs)
        if piece.finish:
            yield self._chunk(index, {}, finish=piece.finish)

    def _chunk(
        self, index: int, delta: dict[str, Any], *, finish: str | None = None, logprobs: Any = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def usage_chunk(self, counts: dict[str, int]) -> bytes:
        head = {**self._head, "object": "chat.completion.chunk"}
        return event({**head, "choices": [], "usage": counts})

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        sampled = [each for piece in pieces for each in piece.sampled]
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(each.text for each in pieces)},
            "logprobs": self._logprobs(sampled),
            "finish_reason": pieces[-1].finish,
        }

    def whole(self, choices: list[dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": choices, "usage": counts}

    def _logprobs(self, sampled: Iterable[Sampled]) -> dict[str, Any] | None:
        content = [
            {
                **self._entry(each.token, each.logprob),
                "top_logprobs": [self._entry(token, logprob) for token, logprob in each.top],
            }
            for each in sampled
        ]
        return {"content": content, "refusal": None} if content else None

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._prompts.text_of([token])
        # Of a part of a character only the tokenizer knows the bytes.
        known = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": known}


class TextAnswer:
    """Text completions of one request, whole or in chunks: one choice for each prompt."""

    def __init__(self, model: str, prompts: Prompts) -> None:
        self._prompts = prompts
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def chunks(self, index: int, piece: Piece, *, echo: str = "") -> Iterator[bytes]:
        if piece.text or piece.finish or echo:
            choice = self.choice(index, [piece], echo=echo)
            yield event({**self._head, "choices": [choice]})

    def usage_chunk(self, counts: dict[str, int]) -> bytes:
        return event({**self._head, "choices": [], "usage": counts})

    def choice(self, index: int, pieces: Sequence[Piece], *, echo: str = "") -> dict[str, Any]:
        sampled = [each for piece in pieces for each in piece.sampled]
        return {
            "index": index,
            "text": echo + "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(sampled, offset=len(echo)),
            "finish_reason": pieces[-1].finish,
        }

    def whole(self, choices: list[dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "choices": choices, "usage": counts}

    def _logprobs(self, sampled: Sequence[Sampled], *, offset: int) -> dict[str, Any] | None:
        if not sampled:
            return None
        texts = [self._prompts.text_of([each.token]) for each in sampled]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [each.logprob for each in sampled],
            "top_logprobs": [
                {self._prompts.text_of([token]): logprob for token, logprob in each.top}
                for each in sampled
            ],
            "text_offset": offsets,
        }
