"""Model lists in the OpenAI shape: recorded ones, and what odd servers make of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chat.errors import UpstreamUnreachable
from chat.types import ModelInfo
from providers.adapters.openai_models import read_models
from tests.recorded_lists import RECORDED

pytestmark = pytest.mark.once


@pytest.mark.skipif(not RECORDED, reason="the recorded interactions are not here")
@pytest.mark.parametrize(("provider", "body"), RECORDED, ids=[name for name, _ in RECORDED])
def test_a_recorded_list_is_read_whole(provider: str, body: Any) -> None:
    models = read_models(json.dumps(body).encode())
    assert [model.id for model in models] == [each["id"] for each in body["data"]]
    assert [model.owned_by for model in models] == [each["owned_by"] for each in body["data"]]
    print(f"{provider}: {len(models)} models")


@pytest.mark.skipif(not RECORDED, reason="the recorded interactions are not here")
def test_llama_cpp_tells_how_much_its_model_reads() -> None:
    body = dict(RECORDED)["llama.cpp"]
    assert [model.context_window for model in read_models(json.dumps(body).encode())] == [40960]


def only(**entry: Any) -> ModelInfo:
    (model,) = read_models(json.dumps({"data": [{"id": "m", **entry}]}).encode())
    return model


@pytest.mark.parametrize(
    "entry",
    [
        {"context_length": 8192},
        {"context_window": 8192},
        {"max_model_len": 8192},
        {"max_context_length": 8192.0},
        {"meta": {"n_ctx": 8192, "n_ctx_train": 131072}},
        {"context_length": None, "max_model_len": 8192},
    ],
)
def test_a_context_window_is_read_under_each_of_its_names(entry: dict[str, Any]) -> None:
    assert only(**entry).context_window == 8192


@pytest.mark.parametrize("value", ["8192", True, -1, 0, 1e300, [], {}, None])
def test_a_context_window_that_is_none_is_unknown(value: Any) -> None:
    assert only(context_length=value, meta=value).context_window is None


def test_openrouters_parameters_and_modalities_are_capabilities() -> None:
    model = only(
        supported_parameters=["tools", "tool_choice", "response_format"],
        architecture={"input_modalities": ["text", "image"]},
    )
    assert model.capabilities == {
        "tools": True,
        "tool_choice": True,
        "structured_output": False,
        "json_mode": True,
        "reasoning": False,
        "vision": True,
        "audio": False,
    }


def test_mistrals_and_our_own_capabilities_are_read() -> None:
    told = {"completion_chat": True, "function_calling": False, "vision": True, "classification": 1}
    assert only(capabilities=told).capabilities == {"tools": False, "vision": True}
    assert only(capabilities={"json_mode": False}).capabilities == {"json_mode": False}


@pytest.mark.parametrize("odd", [None, "tools", 7, [], {}, {"tools": "yes"}, ["completion"]])
def test_capabilities_that_are_none_tell_nothing(odd: Any) -> None:
    told = only(capabilities=odd, supported_parameters=odd and None, architecture=odd)
    assert told.capabilities is None


def test_one_odd_entry_does_not_hide_the_others() -> None:
    odd: list[Any] = [None, "m", {}, {"id": 5}, {"id": ""}, {"id": "a\nb"}, {"id": "x" * 301}]
    entries = [*odd, {"id": "good", "created": "yesterday", "owned_by": None}]
    assert read_models(json.dumps({"data": entries}).encode()) == [ModelInfo(id="good")]


def test_a_bare_list_is_a_list_too() -> None:
    assert read_models(b'[{"id": "m"}]') == [ModelInfo(id="m")]


def test_a_server_without_models_has_none() -> None:
    assert read_models(b'{"data": []}') == []


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"5", b'{"data": 5}', b'{"data": [{}]}', b"{}", b"[[", b"\xff"]
)
def test_what_is_no_list_of_models_is_told(body: bytes) -> None:
    with pytest.raises(UpstreamUnreachable) as caught:
        read_models(body)
    assert caught.value.kind == "protocol"
