"""OpenAI's request bodies, as far as a local model can do what they ask.

What would change the answer's meaning and cannot be done is refused, naming the field; what only
concerns OpenAI's own service (`user`, `store`, `service_tier`, …) is ignored, as llama.cpp does.
Beside OpenAI's fields those that llama.cpp, vLLM and TGI share are taken: `top_k`, `min_p`,
`repetition_penalty`, `ignore_eos`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from providers.runner.serving.errors import Refusal
from providers.runner.serving.generation import Job
from providers.runner.serving.grammar import ANY_OBJECT, Grammar
from providers.runner.serving.sampling import Sampling
from providers.runner.serving.service import ModelFacts
from providers.runner.serving.tokens import too_long_to_answer

MAX_PROMPTS = 128
"""Prompts or texts in one request."""

MAX_CHOICES = 16
"""Answers to one chat; they are made one after another."""

Prompt = str | list[str | int | list[int]]
"""A text, token ids, or a list of either: a list holds one kind only, which `separate` checks."""
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Stop = Annotated[str, Meta(min_length=1, max_length=1000)]


class StreamOptions(Struct):
    include_usage: bool | None = None


class JsonSchema(Struct):
    schema: dict[str, Any] | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @property
    def schema(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        named = self.json_schema if self.type == "json_schema" else None
        return ANY_OBJECT if named is None or named.schema is None else named.schema


class _Generating(Struct):
    """What chat and text completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    ignore_eos: bool | None = None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage is True


class ContentPart(Struct):
    type: str
    text: str | None = None


class Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None


class ChatRequest(_Generating):
    messages: Annotated[list[Message], Meta(min_length=1)] = []
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    modalities: list[str] | None = None

    @property
    def schema(self) -> dict[str, Any] | None:
        """What the answer must fit, if anything."""
        return None if self.response_format is None else self.response_format.schema


class CompletionRequest(_Generating):
    prompt: Prompt = ""
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingsRequest(Struct):
    input: Prompt
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


_Request = ChatRequest | CompletionRequest | EmbeddingsRequest


def read_chat(body: bytes) -> ChatRequest:
    request: ChatRequest = _read(body, ChatRequest)
    if not request.messages:
        raise Refusal("The field `messages` is missing.", param="messages")
    offered = request.tools or request.functions
    if offered and request.tool_choice != "none":
        raise Refusal("This model cannot call tools.", param="tools")
    if request.modalities is not None and set(request.modalities) - {"text"}:
        raise Refusal("This model answers with text only.", param="modalities")
    return request


def read_completion(body: bytes) -> CompletionRequest:
    request: CompletionRequest = _read(body, CompletionRequest)
    if request.n not in (None, 1):
        raise Refusal("This model makes one answer for each prompt.", param="n")
    if request.best_of not in (None, 1):
        raise Refusal("This model makes one answer for each prompt.", param="best_of")
    if request.suffix:
        raise Refusal("This model cannot write towards a suffix.", param="suffix")
    return request


def read_embeddings(body: bytes) -> EmbeddingsRequest:
    request: EmbeddingsRequest = _read(body, EmbeddingsRequest)
    if request.dimensions is not None:
        raise Refusal("This model cannot shorten its vectors.", param="dimensions")
    return request


def _read(body: bytes, kind: type[_Request]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        told = str(error)
        place = told.partition(" - at `$")[2].rstrip("`").lstrip(".")
        raise Refusal(told, param=place or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal("The body is not JSON.") from None


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates know them: text only, `developer` under its older name."""
    return [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": _text(message),
        }
        for message in messages
    ]


def _text(message: Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise Refusal(f"This model cannot read parts of type {part.type}.", param="messages")
    return "".join(part.text or "" for part in message.content)


def separate(value: Prompt, *, param: str) -> list[Any]:
    """Each prompt or text by itself, as a string or a list of token ids."""
    if isinstance(value, str):
        return [value]
    if not value:
        raise Refusal(f"The field `{param}` is empty.", param=param)
    if len({type(each) for each in value}) > 1:
        raise Refusal(f"The field `{param}` mixes texts and tokens.", param=param)
    if isinstance(value[0], int):
        return [value]
    if len(value) > MAX_PROMPTS:
        raise Refusal(f"The field `{param}` holds more than {MAX_PROMPTS}.", param=param)
    return list(value)


def chat_jobs(
    prompt: Sequence[int], request: ChatRequest, facts: ModelFacts, *, grammar: Grammar | None
) -> list[Job]:
    """One job for each choice. A seed makes each choice repeatable, and not all the same."""
    first = replace(job(prompt, request, facts, param="messages"), grammar=grammar)
    if (seed := request.seed) is None:
        return [first] * (request.n or 1)
    samplings = [replace(first.sampling, seed=seed + at) for at in range(request.n or 1)]
    return [replace(first, sampling=sampling) for sampling in samplings]


def job(
    prompt: Sequence[int],
    request: ChatRequest | CompletionRequest,
    facts: ModelFacts,
    *,
    param: str,
) -> Job:
    """What is to be generated. Raises Refusal where the prompt leaves no room for an answer."""
    room = facts.context - len(prompt)
    if room < 1:
        raise too_long_to_answer(facts.context, param=param)
    wanted = request.max_tokens
    if isinstance(request, ChatRequest):
        wanted = request.max_completion_tokens or wanted
        top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    else:
        top_logprobs = request.logprobs
    stop = request.stop or ()
    return Job(
        prompt=prompt,
        max_tokens=min(wanted or facts.default_max_tokens, room),
        sampling=_sampling(request, facts.defaults, top_logprobs=top_logprobs),
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        ignore_eos=request.ignore_eos is True,
    )


def _sampling(request: _Generating, defaults: Sampling, *, top_logprobs: int | None) -> Sampling:
    temperature = request.temperature
    if temperature is None:
        # Who shapes the sampling wants some: OpenAI's default then, where the model's own is none.
        shaped = request.top_p is not None or request.top_k is not None or request.min_p is not None
        temperature = defaults.temperature or (1.0 if shaped else 0.0)
    return Sampling(
        temperature=temperature,
        top_p=_given(request.top_p, defaults.top_p),
        top_k=max(_given(request.top_k, defaults.top_k), 0),
        min_p=_given(request.min_p, defaults.min_p),
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        repetition_penalty=_given(request.repetition_penalty, defaults.repetition_penalty),
        logit_bias=_biases(request.logit_bias or {}),
        seed=request.seed,
        top_logprobs=top_logprobs,
    )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise Refusal("The names in `logit_bias` are token ids.", param="logit_bias") from None
