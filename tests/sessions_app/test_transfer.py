"""Sessions out of a gateway and into it again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sessions_app.conftest import Ask

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_number = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _number | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_call = st.fixed_dictionaries(
    {
        "id": _text,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": _text, "arguments": _text}),
    }
)
_block = st.fixed_dictionaries({"type": st.just("thinking"), "signature": _text, "thinking": _text})
_part = st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": _text})}
)
_message = st.one_of(
    st.fixed_dictionaries(
        {"role": st.just("user"), "content": _text | st.lists(_part, min_size=1)}
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": st.none() | _text},
        optional={
            "tool_calls": st.lists(_call, max_size=2),
            "thinking_blocks": st.lists(_block, max_size=2),
            "refusal": st.none() | _text,
            "x_vendor": _json,
        },
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "content": _text, "tool_call_id": _text}),
)


def document(messages: list[Any], metadata: Any, prompt: str) -> dict[str, Any]:
    told = "2026-11-25T05:00:00.123456+00:00"
    return {
        "object": "abstractcore.session",
        "version": 1,
        "created_at": told,
        "session": {
            "provider": "",
            "model": "smart",
            "truncation": "error",
            "system_prompt": prompt,
            "metadata": metadata,
        },
        "messages": [
            {
                "id": f"msg_{at}",
                "number": 2 * at,
                "created_at": told,
                "incomplete": at % 3 == 0,
                "compacted": False,
                "summary": False,
                "provider": "claude",
                "model": "m" * 200,
                "message": message,
            }
            for at, message in enumerate(messages, start=1)
        ],
    }


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_message, max_size=5), st.dictionaries(_text, _json, max_size=3), _text)
def test_whatever_was_said_is_exported_imported_and_exported_the_same(
    ask: Ask, messages: list[Any], metadata: Any, prompt: str
) -> None:
    sent = document(messages, metadata, prompt)
    first = exported(ask, sent)
    assert first.json()["messages"] == sent["messages"]
    assert first.json()["session"]["metadata"] == metadata
    assert exported(ask, first.json()).body == first.body


def exported(ask: Ask, sent: Any) -> Any:
    made = ask("POST", "/import", sent)
    assert made.status == 201, made.body
    return ask("GET", f"/{made.json()['id']}/export")


def test_a_summary_elsewhere_than_behind_a_message_is_refused(ask: Ask) -> None:
    sent = document([{"role": "user", "content": "Hi"}], {}, "")
    for number, summary in ((3, False), (4, True)):
        sent["messages"][0] |= {"number": number, "summary": summary}
        refused = ask("POST", "/import", sent)
        assert (refused.status, refused.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "99999-01-01T00:00:00Z"]
)
def test_a_time_that_no_database_holds_is_refused(ask: Ask, moment: str) -> None:
    """One that was stored made each list of its key's sessions a 500."""
    sent = document([{"role": "user", "content": "Hi"}], {}, "")
    refused = ask("POST", "/import", {**sent, "created_at": moment})
    assert (refused.status, refused.json()["error"]["param"]) == (400, "created_at")
    sent["messages"][0]["created_at"] = moment
    refused = ask("POST", "/import", sent)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "messages[0].created_at")


@pytest.mark.parametrize(
    "wrong", [{"id": ""}, {"id": "a b"}, {"incomplete": "yes"}, {"provider": "p" * 101}]
)
def test_a_message_that_no_export_tells_of_is_refused(ask: Ask, wrong: dict[str, Any]) -> None:
    sent = document([{"role": "user", "content": "Hi"}], {}, "")
    sent["messages"][0] |= wrong
    refused = ask("POST", "/import", sent)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "messages[0]")
