"""What a model without tools is asked instead: its family, its instructions, its conversation."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from chat.errors import InvalidRequest
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from providers.capabilities import Capabilities
from providers.emulation.families import family_of
from providers.emulation.plan import may_need_emulation, plan
from tests.emulation.wires import NOW, WEATHER

pytestmark = pytest.mark.once
LACKING = Capabilities(tools=False)
HERMES = "hermes-3-llama-3.1-8b"


def asked(*messages: Any, **fields: Any) -> ChatRequest:
    said = list(messages) or [{"role": "user", "content": "Hi"}]
    return parse_chat_request(orjson.dumps({"model": "m", "messages": said, **fields}))


def prepared(
    *messages: Any, model: str = HERMES, capabilities: Capabilities = LACKING, **fields: Any
) -> list[Any]:
    request = asked(*messages, **{"tools": [WEATHER, NOW], **fields})
    before = orjson.dumps(request.body)
    (emulation,) = plan(request, capabilities, model=model)
    told: list[Any] = emulation.prepare(request).body["messages"]
    assert orjson.dumps(request.body) == before, "a fallback asks the next target with it"
    return told


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("hermes-3-llama-3.1-8b", "Hermes"),
        ("NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO", "Hermes"),
        ("openhermes-2.5-mistral-7b", "Hermes"),
        ("deepseek-r1-distill-qwen-7b", "DeepSeek"),
        ("deepseek-ai/DeepSeek-V3", "DeepSeek"),
        ("qwen2.5:7b-instruct", "Qwen"),
        ("Qwen/Qwen3-30B-A3B", "Qwen"),
        ("qwen-7b-chat", "Qwen"),
        ("qwen2.5-coder-7b", "Qwen"),
        ("qwen3-coder:30b", "Qwen3-Coder"),
        ("Qwen3.5-9B", "Qwen3-Coder"),
        ("granite4:micro-h", "Granite"),
        ("phi-4-mini", "Phi"),
        ("glm-4.6", "GLM-4.5"),
        ("zai-org/GLM-4.5-Air", "GLM-4.5"),
        ("glm-4-9b-chat", "unknown"),
        ("glm-5", "GLM-5"),
        ("gemma-3-27b-it", "Gemma 1 to 3, Llama 2"),
        ("gemma-7b", "Gemma 1 to 3, Llama 2"),
        ("gemma2:9b", "Gemma 1 to 3, Llama 2"),
        ("gemma-4-e4b", "Gemma 4"),
        ("LiquidAI/LFM2-1.2B", "LFM2"),
        ("meta-llama/Llama-2-7b-chat-hf", "Gemma 1 to 3, Llama 2"),
        ("Meta-Llama-3-8B-Instruct", "Llama 3 (JSON)"),
        ("llama3.1:8b", "Llama 3 (JSON)"),
        ("Llama-3.3-70B-Instruct", "Llama 3 (JSON)"),
        ("llama3.2:1b", "Llama 3.2 and 4"),
        ("Llama-4-Scout-17B-16E", "Llama 3.2 and 4"),
        ("mistral-small:24b", "Mistral"),
        ("Ministral-8B", "Mistral"),
        ("openai/gpt-oss-20b", "gpt-oss"),
        ("smollm2-135m-instruct", "unknown"),
        ("dolphin-2.9", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_family_is_found_by_its_name(model: str, family: str) -> None:
    assert family_of(model).name == family


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"temperature": 0.5}])
def test_without_tools_nothing_is_emulated(fields: dict[str, Any]) -> None:
    request = asked(**fields)
    assert not may_need_emulation(request)
    assert plan(request, LACKING, model=HERMES) == []


def test_with_the_flag_nothing_is_emulated() -> None:
    assert plan(asked(tools=[NOW]), Capabilities(), model=HERMES) == []


def test_the_tools_are_told_in_the_callers_own_system_message() -> None:
    system, user = prepared(
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    )
    assert system["content"].startswith("Be brief.\n\n")
    assert '"name": "get_weather"' in system["content"]
    assert "<tool_call>\n" in system["content"]
    assert user == {"role": "user", "content": "Hi"}


def test_a_system_message_in_parts_gets_another_part() -> None:
    parts = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    system, _ = prepared({"role": "system", "content": parts}, {"role": "user", "content": "Hi"})
    assert system["content"][0] == parts[0]
    assert "get_weather" in system["content"][1]["text"]


def test_results_are_shown_together_and_with_what_the_user_says_next() -> None:
    calls = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for id_, name in (("a", "now"), ("b", "get_weather"))
    ]
    *_, called, told = prepared(
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": "sunny"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "noon"}]},
        {"role": "user", "content": "Thanks."},
        model="mistral-small",
    )
    assert called["content"].startswith('Let me see.\n\n[TOOL_CALLS][{"name": "now"')
    assert called.keys() == {"role", "content"}
    assert told == {
        "role": "user",
        "content": '[TOOL_RESULTS]{"name": "get_weather", "content": "sunny"}[/TOOL_RESULTS]\n'
        '[TOOL_RESULTS]{"name": "now", "content": "noon"}[/TOOL_RESULTS]\n\nThanks.',
    }


def test_a_picture_in_a_result_goes_along() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": ""}}
    *_, told = prepared(
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "x"}, picture]},
    )
    assert told["content"] == [
        {"type": "text", "text": "<tool_response>\nx\n</tool_response>"},
        picture,
    ]


def test_a_strict_tool_is_told_as_left_out() -> None:
    request = asked(tools=[{"type": "function", "function": {"name": "f", "strict": True}}])
    plan(request, LACKING, model=HERMES)[0].prepare(request)
    assert request.dropped == {"tools.function.strict"}
    assert request.emulated == {"tools"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "gone"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_imitated_is_refused_by_its_name(fields: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepared(**fields)
    assert refused.value.param == param


def test_what_only_the_callers_own_wire_can_say_is_not_rewritten() -> None:
    request = asked(tools=[NOW])
    request.native_only = InvalidRequest("Only there.")
    with pytest.raises(InvalidRequest, match="Only there"):
        plan(request, LACKING, model=HERMES)[0].prepare(request)
