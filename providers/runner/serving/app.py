"""The child's HTTP: OpenAI's paths for one model, as a plain ASGI application.

    POST /v1/chat/completions   whole or streamed
    POST /v1/chat/completions/input_tokens   as llama.cpp's server has it: of the prompt
    POST /v1/completions        whole or streamed
    POST /v1/embeddings
    GET  /v1/models
    GET  /health                without the key

A caller that hangs up is noticed at once, and its generation ends with the token under way.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any

import orjson

from chat.embeddings import embeddings_body
from providers.runner.serving import answers, requests
from providers.runner.serving.answers import DONE, ChatAnswer, TextAnswer
from providers.runner.serving.errors import Refusal
from providers.runner.serving.generation import Job, Piece
from providers.runner.serving.service import Service

logger = logging.getLogger("providers.runner")

MAX_BODY = 64 << 20

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Lines = AsyncGenerator[bytes]


class LocalModelApp:
    def __init__(self, service: Service, *, key: str) -> None:
        self._service = service
        self._authorization = f"Bearer {key}".encode()
        self._posts = {
            "/v1/chat/completions": self._chat,
            "/v1/chat/completions/input_tokens": self._count,
            "/v1/completions": self._complete,
            "/v1/embeddings": self._embed,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = _Exchange(receive, send)
        work = asyncio.ensure_future(self._answer(scope, exchange))
        gone = asyncio.ensure_future(exchange.hung_up())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():
            work.result()

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            await self._route(scope, exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except Exception as error:
            # Without the error's own words, which may hold a prompt's.
            logger.error("a request failed with %s", type(error).__name__)
            await exchange.refuse(Refusal("The runner failed.", status=500))

    async def _route(self, scope: Scope, exchange: _Exchange) -> None:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/health"):
            return await exchange.answer({"status": "ok"})
        if not self._is_ours(scope):
            raise Refusal("The key is missing or wrong.", status=401, code="invalid_api_key")
        if (method, path) == ("GET", "/v1/models"):
            return await exchange.answer(self._listing())
        handler = self._posts.get(path)
        if handler is None:
            raise Refusal("There is no such path.", status=404, code="not_found")
        if method != "POST":
            raise Refusal("This path takes POST only.", status=405, code="method_not_allowed")
        await handler(await exchange.body(), exchange)

    def _is_ours(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        return hmac.compare_digest(headers.get(b"authorization", b""), self._authorization)

    def _listing(self) -> dict[str, Any]:
        facts = self._service.facts
        model = {"id": facts.name, "object": "model", "created": 0, "owned_by": "local"}
        return {"object": "list", "data": [{**model, "context_length": facts.context}]}

    # --- chat -----------------------------------------------------------------------------------

    async def _chat(self, body: bytes, exchange: _Exchange) -> None:
        service = self._service

        def read() -> tuple[requests.ChatRequest, list[Job]]:
            request = requests.read_chat(body)
            prompt = service.prompts.of_chat(requests.template_messages(request.messages))
            grammar = None
            if request.schema is not None:
                grammar = service.grammars.compile(request.schema, param="response_format")
            return request, requests.chat_jobs(prompt, request, service.facts, grammar=grammar)

        request, jobs = await service.read_prompt(read)
        answer = ChatAnswer(service.facts.name, service.prompts)
        if request.stream:
            return await exchange.stream(self._chat_lines(request, jobs, answer))
        choices, completed = [], 0
        for index, job in enumerate(jobs):
            async with aclosing(service.generate(job)) as source:
                pieces = [piece async for piece in source]
            completed += pieces[-1].tokens
            choices.append(answer.choice(index, pieces))
        counts = answers.usage(len(jobs[0].prompt), completed)
        await exchange.answer(answer.whole(choices, counts))

    async def _count(self, body: bytes, exchange: _Exchange) -> None:
        service = self._service

        def read() -> int:
            messages = requests.read_chat(body).messages
            return service.prompts.count_chat(requests.template_messages(messages))

        tokens = await service.read_prompt(read)
        await exchange.answer({"object": "response.input_tokens", "input_tokens": tokens})

    async def _chat_lines(
        self, request: requests.ChatRequest, jobs: list[Job], answer: ChatAnswer
    ) -> Lines:
        completed = 0
        for index, job in enumerate(jobs):
            piece: Piece | None = None
            async with aclosing(self._service.generate(job)) as pieces:
                async for piece in pieces:
                    for line in answer.chunks(index, piece):
                        yield line
            completed += piece.tokens if piece is not None else 0
        if request.wants_usage:
            yield answer.usage_chunk(answers.usage(len(jobs[0].prompt), completed))

    # --- text -----------------------------------------------------------------------------------

    async def _complete(self, body: bytes, exchange: _Exchange) -> None:
        service = self._service

        def read() -> tuple[requests.CompletionRequest, list[Job], list[str]]:
            request = requests.read_completion(body)
            asked = requests.separate(request.prompt, param="prompt")
            read_one = service.prompts.of_text
            prompts = [
                read_one(each) if isinstance(each, str) else service.prompts.of_ids(each)
                for each in asked
            ]
            jobs = [requests.job(each, request, service.facts, param="prompt") for each in prompts]
            echoes = [
                (each if isinstance(each, str) else service.prompts.text_of(each))
                if request.echo
                else ""
                for each in asked
            ]
            return request, jobs, echoes

        request, jobs, echoes = await service.read_prompt(read)
        answer = TextAnswer(service.facts.name, service.prompts)
        if request.stream:
            return await exchange.stream(self._text_lines(request, jobs, echoes, answer))
        choices, completed = [], 0
        for index, (job, echo) in enumerate(zip(jobs, echoes, strict=True)):
            async with aclosing(service.generate(job)) as source:
                pieces = [piece async for piece in source]
            completed += pieces[-1].tokens
            choices.append(answer.choice(index, pieces, echo=echo))
        counts = answers.usage(sum(len(job.prompt) for job in jobs), completed)
        await exchange.answer(answer.whole(choices, counts))

    async def _text_lines(
        self,
        request: requests.CompletionRequest,
        jobs: list[Job],
        echoes: list[str],
        answer: TextAnswer,
    ) -> Lines:
        completed = 0
        for index, (job, echo) in enumerate(zip(jobs, echoes, strict=True)):
            piece: Piece | None = None
            async with aclosing(self._service.generate(job)) as pieces:
                async for piece in pieces:
                    for line in answer.chunks(index, piece, echo=echo):
                        yield line
                    echo = ""
            completed += piece.tokens if piece is not None else 0
        if request.wants_usage:
            prompted = sum(len(job.prompt) for job in jobs)
            yield answer.usage_chunk(answers.usage(prompted, completed))

    # --- embeddings -----------------------------------------------------------------------------

    async def _embed(self, body: bytes, exchange: _Exchange) -> None:
        service = self._service

        def read() -> tuple[requests.EmbeddingsRequest, list[list[int]]]:
            request = requests.read_embeddings(body)
            return request, [
                service.prompts.of_text(each, param="input")
                if isinstance(each, str)
                else service.prompts.of_ids(each, param="input")
                for each in requests.separate(request.input, param="input")
            ]

        request, texts = await service.read_prompt(read)
        vectors = await service.embed(texts)
        await exchange.answer_bytes(
            embeddings_body(
                vectors,
                model=service.facts.name,
                prompt_tokens=sum(map(len, texts)),
                as_base64=request.encoding_format == "base64",
            )
        )


class _Exchange:
    """One request's way in and out."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._started = False
        self._body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hung_up(self) -> None:
        """Reads the body, then waits until the caller is gone."""
        parts: list[bytes] = []
        size = 0
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                return
            size += len(event.get("body", b""))
            if size > MAX_BODY:
                if not self._body.done():
                    self._body.set_exception(
                        Refusal("The body is too large.", status=413, code="request_too_large")
                    )
                parts.clear()
                continue
            parts.append(event.get("body", b""))
            if not event.get("more_body") and not self._body.done():
                self._body.set_result(b"".join(parts))
                parts.clear()

    async def body(self) -> bytes:
        return await self._body

    async def answer(self, body: dict[str, Any]) -> None:
        await self.answer_bytes(orjson.dumps(body))

    async def answer_bytes(self, body: bytes) -> None:
        await self._start(200, b"application/json", [(b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, lines: Lines) -> None:
        """Sends lines as they come. What fails before the first has a status of its own; after
        it, it is told in the stream, which then does not end as an answer does."""
        async with aclosing(lines):
            try:
                async for line in lines:
                    if not self._started:
                        await self._start(200, b"text/event-stream", [])
                    await self._more(line)
            except Refusal as refusal:
                if not self._started:
                    raise
                await self._more(answers.event(answers.error_body(refusal)))
            else:
                await self._more(DONE)
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refusal) -> None:
        if self._started:
            return
        body = orjson.dumps(answers.error_body(refusal))
        headers = [(b"content-length", b"%d" % len(body))]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after))
        await self._start(refusal.status, b"application/json", headers)
        await self._send({"type": "http.response.body", "body": body})

    async def _start(
        self, status: int, content_type: bytes, headers: list[tuple[bytes, bytes]]
    ) -> None:
        self._started = True
        headers = [(b"content-type", content_type), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _more(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
