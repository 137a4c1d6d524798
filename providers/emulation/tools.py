"""Tools for a model that was not served with them: told in its system message, called in its
family's own envelope, which is read back into ordinary `tool_calls`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import msgspec
import orjson

from chat.errors import UpstreamFailed
from chat.requests import ChatRequest
from chat.types import (
    Batch,
    ChatChunk,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionDelta,
    Reply,
    ToolCallDelta,
)
from providers.capabilities import Capabilities
from providers.emulation.emulation import AskAgain, Emulation, Restorer, rewritten
from providers.emulation.families import family_of
from providers.emulation.reading.answer import AnswerReader, Fault
from providers.emulation.reading.calls import Begun, Found
from providers.emulation.tool_choice import (
    Offer,
    ToolPolicy,
    Withheld,
    no_call,
    read_offer,
)
from providers.emulation.tool_history import written_history
from providers.emulation.tool_prompt import tools_told, with_instructions

MALFORMED = "The model's tool call could not be read."
_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})


def lacks_tools(request: ChatRequest, capabilities: Capabilities) -> bool:
    """Whether a request has tools that its target does not take."""
    return not capabilities.tools and bool(request.params.tools or request.params.functions)


class EmulatedTools(Emulation):
    def __init__(self, capabilities: Capabilities, model: str) -> None:
        self._family = family_of(model)
        self._system_role = capabilities.system_role
        self._offer = Offer()
        self._request: ChatRequest | None = None
        self._may_ask_again = True
        self._notes: list[str] = []

    @property
    def is_legacy(self) -> bool:
        """Whether the caller speaks of functions, the older name."""
        return self._request is not None and not self._request.params.tools

    @property
    def policy(self) -> ToolPolicy:
        return self._offer.policy

    def prepare(self, request: ChatRequest) -> ChatRequest:
        self._request = request
        offer = self._offer = read_offer(request)
        request.emulated.add("tools")
        if offer.is_strict:
            request.dropped.add("tools.function.strict")
        body = {name: value for name, value in request.body.items() if name not in _FIELDS}
        envelope = self._family.envelope
        messages = written_history(body["messages"], request.params, envelope)
        if offer.tools:
            told = tools_told(offer, envelope)
            messages = with_instructions(messages, told, system_role=self._system_role)
        return rewritten(request, {**body, "messages": messages})

    def new_reader(self) -> AnswerReader | None:
        """What reads one answer; None where no tool may be called and nothing is looked for."""
        if not self._offer.tools:
            return None
        schemas = {name: tool["parameters"] for name, tool in self._offer.tools.items()}
        return AnswerReader(schemas, self._family.dialect)

    def note(self, faults: Iterable[Fault]) -> None:
        """Has it told that calls could not be read."""
        for _ in faults:
            self._notes.append(MALFORMED)
            if self._request is not None:
                self._request.emulated.discard("tools")
                self._request.emulated.add("tools; malformed")

    def take_notes(self) -> list[str]:
        notes, self._notes = self._notes, []
        return notes

    def restore(self, reply: Reply) -> Reply:
        if not self._offer.tools:
            return reply
        answer = orjson.loads(reply.body)
        choices = [each for each in answer["choices"] if isinstance(each.get("message"), dict)]
        read = [_WholeChoice(self, choice) for choice in choices]
        faults = [fault for each in read for fault in each.faults]
        if faults and self._may_ask_again and len(read) == 1:
            self.note(faults[:1])
            self._notes.clear()  # told by what is raised
            self._may_ask_again = False
            raise AskAgain(MALFORMED, read[0].text, _feedback(faults[0]))
        self.note(faults)
        if self.policy.demanded and not all(each.called for each in read):
            raise no_call()
        if not any(each.changed for each in read):
            return reply
        for each in read:
            each.write()
        finish = answer["choices"][0].get("finish_reason")
        return msgspec.structs.replace(reply, body=orjson.dumps(answer), finish_reason=finish)

    def begin(self) -> Restorer:
        return _ToolsRestorer(self)


def _feedback(fault: Fault) -> str:
    return (
        f"Your tool call could not be read: {fault.reason}. Write your answer again, the call in "
        "exactly the form you were told."
    )


def _finish(reason: Any, *, called: bool, broken_off: bool, legacy: bool) -> Any:
    """Why an answer ended. One that breaks off in a call was cut, whatever its upstream says."""
    if broken_off:
        return "length"
    if called and reason != "content_filter":
        return "function_call" if legacy else "tool_calls"
    return reason


class _Numbering:
    """Gives the calls of one choice their places and ids, and leaves out those the caller did not
    want."""

    def __init__(self, policy: ToolPolicy) -> None:
        self.count = 0
        self._policy = policy
        self._shown = False

    def begins(self, name: str) -> bool:
        self._shown = self._policy.admits(name, after=self.count)
        self.count += self._shown
        return self._shown

    @property
    def goes_on(self) -> bool:
        """Whether the arguments that come now are shown."""
        return self._shown


def _call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


class _WholeChoice:
    """One choice of a whole answer, read."""

    def __init__(self, tools: EmulatedTools, choice: dict[str, Any]) -> None:
        self._tools = tools
        self._choice = choice
        self._message = choice["message"]
        content = self._message.get("content")
        self.text = content if isinstance(content, str) else ""
        self._said: list[str] = []
        self._calls: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        reader = tools.new_reader()
        if reader is not None:
            self._sort(reader.read_whole(self.text))
            self.faults = reader.faults

    def _sort(self, found: list[Found]) -> None:
        numbering = _Numbering(self._tools.policy)
        for each in found:
            if isinstance(each, str):
                self._said.append(each)
            elif isinstance(each, Begun):
                if numbering.begins(each.name):
                    self._calls.append({"name": each.name, "arguments": ""})
            elif numbering.goes_on:
                self._calls[-1]["arguments"] += each.text

    @property
    def called(self) -> bool:
        return bool(self._calls or self._message.get("tool_calls"))

    @property
    def changed(self) -> bool:
        return bool(self._calls or self.faults)

    def write(self) -> None:
        """Puts what was read in the text's place."""
        if not self.changed:
            return
        self._message["content"] = "".join(self._said) or (None if self._calls else "")
        if self._calls and self._tools.is_legacy:
            self._message["function_call"] = self._calls[0]
        elif self._calls:
            self._message["tool_calls"] = [
                {"id": _call_id(), "type": "function", "function": call} for call in self._calls
            ]
        self._choice["finish_reason"] = _finish(
            self._choice.get("finish_reason"),
            called=bool(self._calls),
            broken_off=any(fault.broken_off for fault in self.faults),
            legacy=self._tools.is_legacy,
        )


class _ToolsRestorer(Restorer):
    def __init__(self, tools: EmulatedTools) -> None:
        self._tools = tools
        self._withheld = Withheld(tools.policy)
        self._choices: dict[int, _StreamedChoice] = {}
        self._head = ChatChunk(choices=[])

    def feed(self, batch: Batch) -> Batch | None:
        chunks: list[ChatChunk] = []
        for chunk in batch.chunks:
            if self.failure is None:
                chunks += self._restored(chunk)
        chunks = self._withheld.shown(chunks, called=self._has_called)
        if self._withheld.is_too_much:
            self.failure = no_call()
        return Batch(chunks) if chunks else None

    def finish(self) -> Batch | None:
        """What streams that were not ended hold back."""
        chunks = []
        for index, choice in self._choices.items():
            chunks += self._told(self._head, index, choice.end())
            self._judge(choice)
        chunks = self._withheld.shown(chunks, called=self._has_called)
        if self._tools.policy.demanded and not all(each.called for each in self._choices.values()):
            self.failure = no_call()
        return Batch(chunks) if chunks else None

    @property
    def _has_called(self) -> bool:
        return any(choice.called for choice in self._choices.values())

    def _restored(self, chunk: ChatChunk) -> list[ChatChunk]:
        self._head = chunk
        if not chunk.choices:
            return [chunk]
        told: list[ChatChunk] = []
        for choice in chunk.choices:
            told += self._choice(chunk, choice)
        if told and chunk.usage is not None:
            told[-1].usage = chunk.usage
        elif chunk.usage is not None:
            told = [_like(chunk, [], usage=True)]
        return told

    def _choice(self, chunk: ChatChunk, choice: ChunkChoice) -> list[ChatChunk]:
        state = self._choices.get(choice.index)
        if state is None:
            state = self._choices[choice.index] = _StreamedChoice(self._tools)
        delta = choice.delta
        pieces = state.read(delta.content) if delta.content else []
        if choice.finish_reason is not None:
            pieces += state.end()
        self._judge(state)
        state.called = state.called or bool(delta.tool_calls)
        first = msgspec.structs.replace(delta, content=None)
        if pieces and pieces[0].tool_calls is None and pieces[0].function_call is None:
            first.content = pieces.pop(0).content
        elif delta.content == "":
            first.content = ""
        shown = [first, *pieces] if first != Delta() else pieces
        if choice.finish_reason is None or self.failure is not None:
            return self._told(chunk, choice.index, shown, logprobs=choice.logprobs)
        if not shown:
            shown = [Delta()]
        told = self._told(chunk, choice.index, shown, logprobs=choice.logprobs)
        told[-1].choices[0].finish_reason = state.finish_reason(choice.finish_reason)
        return told

    def _judge(self, state: _StreamedChoice) -> None:
        faults = state.new_faults()
        self._tools.note(faults)
        if any(fault.shown and not fault.broken_off for fault in faults):
            self.failure = UpstreamFailed(MALFORMED, code="malformed_tool_call")

    def _told(
        self, chunk: ChatChunk, index: int, deltas: list[Delta], *, logprobs: Any = None
    ) -> list[ChatChunk]:
        told = [_like(chunk, [ChunkChoice(index=index, delta=delta)]) for delta in deltas]
        if told and logprobs is not None:
            told[0].choices[0].logprobs = logprobs
        return told


def _like(chunk: ChatChunk, choices: list[ChunkChoice], *, usage: bool = False) -> ChatChunk:
    return msgspec.structs.replace(chunk, choices=choices, usage=chunk.usage if usage else None)


class _StreamedChoice:
    """One choice of a stream as it is read."""

    def __init__(self, tools: EmulatedTools) -> None:
        self.called = False
        self.ended = False
        self._legacy = tools.is_legacy
        self._reader = tools.new_reader()
        self._numbering = _Numbering(tools.policy)
        self._told_faults = 0

    def read(self, text: str) -> list[Delta]:
        if self._reader is None:
            return [Delta(content=text)]
        return self._deltas(self._reader.feed(text))

    def end(self) -> list[Delta]:
        if self.ended or self._reader is None:
            return []
        self.ended = True
        return self._deltas(self._reader.finish())

    def new_faults(self) -> list[Fault]:
        faults = self._reader.faults[self._told_faults :] if self._reader is not None else []
        self._told_faults += len(faults)
        return faults

    def finish_reason(self, reason: FinishReason) -> Any:
        faults = self._reader.faults if self._reader is not None else []
        broken_off = any(fault.broken_off for fault in faults)
        return _finish(reason, called=self.called, broken_off=broken_off, legacy=self._legacy)

    def _deltas(self, found: list[Found]) -> list[Delta]:
        """Neighbours together: texts in one delta, calls in one."""
        deltas: list[Delta] = []
        for each in found:
            if isinstance(each, str):
                if deltas and deltas[-1].content is not None:
                    deltas[-1].content += each
                else:
                    deltas.append(Delta(content=each))
            elif isinstance(each, Begun):
                if self._numbering.begins(each.name):
                    self.called = True
                    deltas.append(self._begun(each.name))
            elif self._numbering.goes_on:
                deltas.append(self._argued(each.text))
        return deltas

    def _begun(self, name: str) -> Delta:
        function = FunctionDelta(name=name, arguments="")
        if self._legacy:
            return Delta(function_call=function)
        index = self._numbering.count - 1
        call = ToolCallDelta(index=index, id=_call_id(), type="function", function=function)
        return Delta(tool_calls=[call])

    def _argued(self, text: str) -> Delta:
        function = FunctionDelta(arguments=text)
        if self._legacy:
            return Delta(function_call=function)
        return Delta(tool_calls=[ToolCallDelta(self._numbering.count - 1, function=function)])
