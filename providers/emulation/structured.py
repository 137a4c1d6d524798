"""Answers in a format, from models that may not be held to one.

Whatever the strategy, the answer is validated and asked for again with what is wrong with it. What
is no final answer passes as it is: a call of the caller's tools, a refusal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import orjson

from chat.errors import InvalidRequest, StructuredOutputInvalid
from chat.requests import ChatParams, ChatRequest
from chat.types import Batch, Reply
from providers.capabilities import Capabilities
from providers.emulation.answer_text import NoAnswer, find_value
from providers.emulation.emulation import AskAgain, Emulation, Restorer, rewritten
from providers.emulation.forced_answer import AnswerTool, offer_answer_tool
from providers.emulation.schema import AnswerSchema, Problem, schema_of
from providers.emulation.strategies import (
    SCHEMA_PARAM,
    Strategy,
    offers_calls,
    schema_asked,
    strategy_for,
    wants_schema,
)
from providers.emulation.tool_prompt import with_instructions

DEFAULT_RETRIES = 1
"""How often an answer that is not valid is asked for again where the request does not say."""
_MAX_SHOWN = 4000
"""Characters of an invalid answer that an error holds."""
_ONLY = "and nothing else: no prose, no code fence."
_NOT_THE_SCHEMA = "Give the data itself and do not repeat the schema."
"""Small models copy what they see (SmolLM2-135M, 2026-11-25)."""
_UNLESS_CALLING = "Unless you call a tool, answer"


class _Invalid(NamedTuple):
    """An answer that will not do."""

    text: str
    problems: list[Problem]
    cut: bool

    @property
    def told(self) -> str:
        """Which rules it breaks, with nothing of what it says: for events and logs."""
        if self.cut:
            return "it was cut off at its limit of tokens"
        return ", ".join(dict.fromkeys(each.rule for each in self.problems))

    @property
    def error(self) -> StructuredOutputInvalid:
        return StructuredOutputInvalid(
            f"The model's answer is not in the format that was asked for: {self.told}.",
            problems=[{"path": each.path, "message": each.message} for each in self.problems],
            last_text=self.text[:_MAX_SHOWN],
        )

    @property
    def feedback(self) -> str:
        wrong = "\n".join(f"- {problem}" for problem in self.problems)
        return f"This is not a valid answer:\n{wrong}\nGive the whole answer again, corrected."


class StructuredOutput(Emulation):
    """One request's format at a target with these flags."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._strategy: Strategy = "native"
        self._schema: AnswerSchema | None = None
        self._tool: AnswerTool | None = None
        self._retries = DEFAULT_RETRIES
        self._invalid = 0
        self._is_trusted = False
        self.is_open_ai = True
        """Whether the caller speaks OpenAI's wire."""

    def prepare(self, request: ChatRequest) -> ChatRequest:
        """Raises InvalidRequest for a schema that is none, where it would be ours to hold to."""
        self.is_open_ai = request.wire == "openai"
        if request.answer_retries is not None:
            self._retries = request.answer_retries
        self._strategy = strategy_for(request, self._capabilities)
        self._is_trusted = self._strategy == "native" and request.answer_retries is None
        self.needs_whole = self._strategy not in ("native", "left_out")
        if self._strategy == "native":
            self._schema = _readable_schema(request.params)
            return request
        if wants_schema(request.params):
            self._schema = schema_of(schema_asked(request.params), param=SCHEMA_PARAM)
        return self._without_format(request)

    def _without_format(self, request: ChatRequest) -> ChatRequest:
        body = {name: value for name, value in request.body.items() if name != "response_format"}
        if self._strategy == "left_out":
            return rewritten(request, body)
        _tell(request)
        if self._strategy == "forced_tool":
            assert self._schema is not None
            self._tool, offered = offer_answer_tool(request, self._schema.schema)
            return rewritten(request, {**body, **offered})
        if self._strategy == "json_mode":
            body["response_format"] = {"type": "json_object"}
        body["messages"] = with_instructions(
            body["messages"],
            self._instruction(request.params),
            system_role=self._capabilities.system_role,
        )
        return rewritten(request, body)

    def _instruction(self, params: ChatParams) -> str:
        start = _UNLESS_CALLING if offers_calls(params) else "Answer"
        if self._schema is None:
            return f"{start} with one JSON object {_ONLY}"
        told = f"{start} with JSON that fits the JSON Schema below {_ONLY} {_NOT_THE_SCHEMA}"
        return f"{told}\n{self._schema.text}"

    def restore(self, reply: Reply) -> Reply:
        """The answer's text as the JSON in it, to the letter. Raises AskAgain, and
        StructuredOutputInvalid where that was done often enough."""
        if reply.wire != "openai" or self._strategy == "left_out":
            return reply  # in the words of the caller's own wire: not ours to change
        completion = orjson.loads(reply.body)
        choices = [each for each in completion["choices"] if self._is_final(each)]
        changed = [self._put_right(choice) for choice in choices]
        if not any(changed) and self._tool is None:
            return reply
        return msgspec.structs.replace(
            reply,
            body=orjson.dumps(completion),
            finish_reason=completion["choices"][0].get("finish_reason"),
        )

    def _is_final(self, choice: dict[str, Any]) -> bool:
        """Whether it is an answer, after a call of ours was taken for one."""
        message = choice["message"]
        if self._tool is not None:
            self._tool.unwrap(choice)
        if message.get("tool_calls") or message.get("function_call") or message.get("refusal"):
            return False
        finish = choice.get("finish_reason")
        return finish != "content_filter" and not (finish == "length" and self._is_trusted)

    def _put_right(self, choice: dict[str, Any]) -> bool:
        """Whether the text had to be changed to be nothing but the answer."""
        message = choice["message"]
        said = _text(message.get("content"))
        text, problems = self._read(said)
        if problems:
            self._refuse(_Invalid(said, problems, choice.get("finish_reason") == "length"))
        if text == said or (self._strategy == "native" and text == said.strip()):
            return False  # the upstream's own bytes pass, white space and all
        message["content"] = text
        return True

    def _read(self, said: str) -> tuple[str, list[Problem]]:
        try:
            found = find_value(said, opening=self._opening)
        except NoAnswer as error:
            return said, [Problem("$", "json", str(error))]
        if self._schema is not None:
            return found.text, self._problems(self._schema, found.value)
        if self._strategy != "native" and not isinstance(found.value, dict):
            return said, [Problem("$", "type", "the answer must be a JSON object")]
        return found.text, []

    def _problems(self, schema: AnswerSchema, value: Any) -> list[Problem]:
        """Raises InvalidRequest where it takes too long to tell, unless the upstream's word will
        do."""
        try:
            return schema.problems(value)
        except InvalidRequest:
            if self._is_trusted:
                return []
            raise

    @property
    def _opening(self) -> str:
        is_list = self._schema is not None and self._schema.schema.get("type") == "array"
        return "[" if is_list else "{"

    def _refuse(self, invalid: _Invalid) -> None:
        self._invalid += 1
        if self._invalid <= self._retries and not invalid.cut:
            raise AskAgain(
                error=f"The answer is not in its format: {invalid.told}.",
                said=invalid.text or "(nothing)",
                feedback=invalid.feedback,
            )
        raise invalid.error

    def judge_streamed(self, said: str) -> StructuredOutputInvalid | None:
        """What is wrong with a text that has been shown, so that nothing may stand around it."""
        text, problems = self._read(said)
        if not problems and text != said.strip():
            problems = [Problem("$", "json", "there is more than the answer")]
        return _Invalid(said, problems, cut=False).error if problems else None

    def begin(self) -> Restorer:
        return _Unchanged() if self._strategy == "left_out" else _Judged(self)


class _Unchanged(Restorer):
    """A stream without an answer in it: a tool is to be called."""

    def feed(self, batch: Batch) -> Batch | None:
        return batch

    def finish(self) -> Batch | None:
        return None


class _Judged(Restorer):
    """A stream that the upstream holds to its format: it passes as it comes, and one that has
    come to its end and does not fit fails there."""

    def __init__(self, format_: StructuredOutput) -> None:
        self._format = format_
        self._said: dict[int, list[str]] = {}
        self._other: set[int] = set()
        """Choices that call a tool or refuse: what they say has no format."""
        self._wrong: StructuredOutputInvalid | None = None

    def feed(self, batch: Batch) -> Batch | None:
        if batch.wire is not None and not self._format.is_open_ai:
            return batch  # in the words of the caller's own wire, as in `restore`
        ends_wrong = False
        for choice in (choice for chunk in batch.chunks for choice in chunk.choices):
            delta = choice.delta
            if delta.content:
                self._said.setdefault(choice.index, []).append(delta.content)
            if delta.tool_calls or delta.function_call or delta.refusal:
                self._other.add(choice.index)
            if choice.finish_reason == "stop" and choice.index not in self._other:
                said = "".join(self._said.get(choice.index, ()))
                if (wrong := self._format.judge_streamed(said)) is not None:
                    choice.finish_reason, self._wrong, ends_wrong = None, wrong, True
        return Batch(batch.chunks) if ends_wrong else batch

    def finish(self) -> Batch | None:
        """The usage has come meanwhile: what is told as a failure is billed."""
        self.failure = self._wrong
        return None


def _tell(request: ChatRequest) -> None:
    name = "structured_output" if wants_schema(request.params) else "json_mode"
    request.emulated.add(f"{name}; buffered" if request.stream else name)


def _readable_schema(params: ChatParams) -> AnswerSchema | None:
    """The schema, unless it is one that only the upstream can make something of."""
    if not wants_schema(params):
        return None
    try:
        return schema_of(schema_asked(params), param=SCHEMA_PARAM)
    except InvalidRequest:
        return None


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
