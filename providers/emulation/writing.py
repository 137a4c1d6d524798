"""How each family writes a call and is shown a tool's result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool answered; `name` is empty where nobody said which."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Envelope:
    write_calls: Callable[[Sequence[Call]], str]
    write_results: Callable[[Sequence[Result]], str]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _object(call: Call, key: str = "arguments") -> str:
    return _json({"name": call.name, key: call.arguments})


def _each(write: Callable[[Call], str], between: str = "\n") -> Callable[[Sequence[Call]], str]:
    return lambda calls: between.join(map(write, calls))


def _results(begin: str, end: str, between: str = "\n") -> Callable[[Sequence[Result]], str]:
    """The results in these marks, whichever tool they are of."""
    return lambda results: between.join(f"{begin}{each.content}{end}" for each in results)


def _named_results(begin: str = "", end: str = "") -> Callable[[Sequence[Result]], str]:
    """The results as JSON that says which tool they are of."""
    return lambda results: "\n".join(
        begin + _json({"name": each.name, "content": each.content}) + end for each in results
    )


def _python(call: Call) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    return f"{call.name}({arguments})"


def _python_list(calls: Sequence[Call]) -> str:
    return f"[{', '.join(map(_python, calls))}]"


def _raw(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _qwen_coder(call: Call) -> str:
    parameters = "".join(
        f"<parameter={name}>\n{_raw(value)}\n</parameter>\n"
        for name, value in call.arguments.items()
    )
    return f"<tool_call>\n<function={call.name}>\n{parameters}</function>\n</tool_call>"


def _glm(call: Call) -> str:
    pairs = "".join(
        f"<arg_key>{name}</arg_key><arg_value>{_raw(value)}</arg_value>"
        for name, value in call.arguments.items()
    )
    return f"<tool_call>{call.name}{pairs}</tool_call>"


def _tool_code(calls: Sequence[Call]) -> str:
    return "```tool_code\n" + "\n".join(map(_python, calls)) + "\n```"


def _deepseek(calls: Sequence[Call]) -> str:
    written = "".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call.name}\n```json\n{_json(call.arguments)}"
        "\n```<｜tool▁call▁end｜>"
        for call in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def _deepseek_results(results: Sequence[Result]) -> str:
    written = _results("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "")(results)
    return f"<｜tool▁outputs▁begin｜>{written}<｜tool▁outputs▁end｜>"


def _harmony(call: Call) -> str:
    header = f"<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>"
    return f"{header}{_json(call.arguments)}<|call|>"


def _harmony_results(results: Sequence[Result]) -> str:
    return "".join(
        f"<|start|>functions.{each.name} to=assistant<|channel|>commentary<|message|>"
        f"{each.content}<|end|>"
        for each in results
    )


_TOOL_RESPONSE = _results("<tool_response>\n", "\n</tool_response>")

HERMES = Envelope(_each(lambda call: f"<tool_call>\n{_object(call)}\n</tool_call>"), _TOOL_RESPONSE)
SPECIAL_TOKENS = Envelope(
    _each(lambda call: f"<|tool_call|>{_object(call)}</|tool_call|>"),
    _results("<|tool_response|>", "</|tool_response|>"),
)
GEMMA_4 = Envelope(
    _each(lambda call: f"<|tool_call>call:{call.name}{_json(call.arguments)}<tool_call|>", ""),
    lambda results: "".join(
        f"<|tool_response>response:{each.name}{_json({'value': each.content})}<tool_response|>"
        for each in results
    ),
)
LFM_2 = Envelope(
    lambda calls: f"<|tool_call_start|>{_python_list(calls)}<|tool_call_end|>",
    _results("<|tool_response_start|>", "<|tool_response_end|>"),
)
LLAMA_JSON = Envelope(_each(lambda call: _object(call, "parameters"), "; "), _named_results())
PYTHONIC = Envelope(_python_list, _named_results())
MISTRAL = Envelope(
    lambda calls: f"[TOOL_CALLS][{', '.join(map(_object, calls))}]",
    _named_results("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
QWEN_CODER = Envelope(_each(_qwen_coder), _TOOL_RESPONSE)
GLM = Envelope(_each(_glm), _results("<tool_response>", "</tool_response>"))
TOOL_CODE = Envelope(_tool_code, _results("```tool_output\n", "\n```"))
DEEPSEEK = Envelope(_deepseek, _deepseek_results)
HARMONY = Envelope(_each(_harmony, ""), _harmony_results)
