"""Sessions as their callers know them: `/v1/sessions`."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.gateway import KEY, Gateway, wait_until
from tests.sessions_app.conftest import CLAUDE, OLLAMA, OPENAI, OTHER, Ask, said
from tests.upstream import DONE, Asked, Peer, Upstream, chunk, completion, streaming, whole

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def begin(ask: Ask, **fields: Any) -> str:
    answered = ask("POST", "", {"model": OPENAI, **fields})
    assert answered.status == 201, answered.body
    return str(answered.json()["id"])


def messages_of(ask: Ask, session: str, query: str = "?limit=1000") -> list[Any]:
    found: list[Any] = ask("GET", f"/{session}{query}").json()["messages"]
    return found


def told(upstream: Upstream) -> list[Any]:
    """The conversations the upstream was told, as role and text."""
    bodies = [asked.json() for asked in upstream.asked if b'"messages"' in asked.body]
    return [
        [(each["role"], text_of(each["content"])) for each in body["messages"]] for body in bodies
    ]


def text_of(content: Any) -> Any:
    return content[0].get("text") if isinstance(content, list) else content


@pytest.mark.parametrize("model", [OPENAI, CLAUDE, OLLAMA])
def test_the_upstream_is_told_the_whole_conversation(
    ask: Ask, upstream: Upstream, model: str
) -> None:
    session = begin(ask, model=model, system_prompt="Be kind.")
    first = ask("POST", f"/{session}/chat", said("Remember that my name is Alice."))
    second = ask("POST", f"/{session}/chat", said("What is my name?"))
    assert (first.status, second.status) == (200, 200), second.body
    assert second.json()["session_id"] == session
    assert second.json()["choices"][0]["message"]["content"].startswith("I was told")
    conversation = [each for each in told(upstream)[-1] if each[0] != "system"]
    assert conversation == [
        ("user", "Remember that my name is Alice."),
        ("assistant", first.json()["choices"][0]["message"]["content"]),
        ("user", "What is my name?"),
    ]
    found = ask("GET", f"/{session}").json()
    assert found["message_count"] == 4
    assert found["total_tokens"] == 2 * first.json()["usage"]["total_tokens"]
    assert [each["role"] for each in found["messages"]] == ["user", "assistant"] * 2


def test_a_session_goes_on_with_another_provider_and_its_calls(
    ask: Ask, upstream: Upstream
) -> None:
    session = begin(ask, tools=[WEATHER])
    call = {"id": "call_1", "type": "function"} | {
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'}
    }
    upstream.script = whole(200, completion(None, tool_calls=[call]))
    assert ask("POST", f"/{session}/chat", said("Weather?")).status == 200
    from tests.sessions_app.conftest import echo

    upstream.script = echo
    result = {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}
    for model in (CLAUDE, OLLAMA, OPENAI):
        assert ask("PATCH", f"/{session}", {"model": model}).json()["model"] == model
        body = {"messages": [result]} if model == CLAUDE else said("And now?")
        answered = ask("POST", f"/{session}/chat", body)
        assert answered.status == 200, answered.body
    last = upstream.asked[-1].json()["messages"]
    assert [each["role"] for each in last] == [
        *("user", "assistant", "tool", "assistant", "user", "assistant", "user")
    ]
    assert last[1]["tool_calls"] == [call]


def test_a_sessions_tools_may_be_names(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, tools=["ask_user", WEATHER])
    assert ask("GET", f"/{session}").json()["tools"] == ["ask_user", WEATHER]
    assert ask("POST", f"/{session}/chat", said("Hi")).status == 200
    names = [tool["function"]["name"] for tool in upstream.asked[-1].json()["tools"]]
    assert names == ["ask_user", "weather"]
    unknown = ask("POST", "", {"tools": ["nobody_has_it"]})
    assert (unknown.status, unknown.json()["error"]["code"]) == (400, "tool_not_found")


def test_the_ledger_the_events_and_the_session_agree(ask: Ask, keeper: Gateway) -> None:
    session = begin(ask)
    ask("POST", f"/{session}/chat", said("One."))
    ask("POST", f"/{session}/chat", said("Two."))
    found = ask("GET", f"/{session}").json()

    def rows() -> list[Any]:
        headers = {"authorization": f"Bearer {KEY}"}
        told = keeper.call("GET", f"/v1/usage?session_id={session}", None, headers)
        listed: list[Any] = told.json()["data"]
        return listed

    wait_until(lambda: len(rows()) == 2, seconds=10)
    assert found["total_tokens"] == sum(
        row["tokens_input"] + row["tokens_output"] for row in rows()
    )
    from decimal import Decimal

    assert Decimal(found["total_cost"]) == sum(Decimal(row["cost_usd"]) for row in rows()) > 0
    assert found["unpriced_requests"] == 0


def test_a_session_counts_what_has_no_price_and_what_failed(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask)
    ask("POST", f"/{session}/chat", said("One."))
    priced = ask("GET", f"/{session}").json()
    ask("POST", f"/{session}/chat", {**said("Two."), "model": "scripted/unheard-of"})
    upstream.script = streaming([chunk(content="Hel"), b"data: {\n\n"])
    ask("POST", f"/{session}/chat", {**said("Three."), "stream": True})
    found = ask("GET", f"/{session}").json()
    assert (priced["unpriced_requests"], found["unpriced_requests"]) == (0, 1)
    assert found["total_tokens"] > 2 * priced["total_tokens"]
    assert float(found["total_cost"]) > float(priced["total_cost"]) > 0


def test_a_streamed_turn_is_kept_and_marked_with_the_session(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask)
    upstream.script = streaming([chunk(content="Hel"), chunk(content="lo"), chunk("stop"), DONE])
    answered = ask("POST", f"/{session}/chat", {**said("Hi"), "stream": True})
    events = [each for each in answered.body.decode().split("\n\n") if each]
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(each.removeprefix("data: ")) for each in events[:-1]]
    assert {each["session_id"] for each in chunks} == {session}
    assert [each["content"] for each in messages_of(ask, session)] == ["Hi", "Hello"]


def test_a_failed_turn_leaves_nothing_behind(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask)
    upstream.script = whole(400, {"error": {"message": "No."}})
    assert ask("POST", f"/{session}/chat", said("Hi")).status == 400
    assert ask("POST", f"/{session}/chat", {**said("Hi"), "stream": True}).status == 400
    assert messages_of(ask, session) == []


def test_what_was_said_before_a_stream_broke_is_kept_and_marked(
    ask: Ask, upstream: Upstream
) -> None:
    session = begin(ask)

    async def breaking(asked: Asked, peer: Peer) -> None:
        peer.begin()
        peer.piece(chunk(content="Once upon"))
        peer.hang_up()

    upstream.script = breaking
    answered = ask("POST", f"/{session}/chat", {**said("A tale"), "stream": True})
    assert b"error" in answered.body
    assert b"[DONE]" not in answered.body
    first, second = messages_of(ask, session)
    assert (first["content"], second["content"]) == ("A tale", "Once upon")
    assert second["status"] == "incomplete"
    assert "status" not in first


def test_twenty_turns_at_once_do_not_mix(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask)
    threads = [
        threading.Thread(target=ask, args=("POST", f"/{session}/chat", said(f"Turn {number}")))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = messages_of(ask, session)
    assert [each["role"] for each in messages] == ["user", "assistant"] * 20
    assert {each["content"] for each in messages[::2]} == {f"Turn {n}" for n in range(20)}
    answers = [each["content"] for each in messages[1::2]]
    assert answers == [f"I was told {2 * turn + 1}." for turn in range(20)]


def test_another_keys_session_does_not_exist(ask: Ask) -> None:
    session = begin(ask, id="shared")
    begun_by_other = ask("POST", "", {"id": "shared"}, key=OTHER)
    assert begun_by_other.status == 201
    hidden = begin(ask)
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"model": OPENAI}),
        ("DELETE", "", None),
        ("GET", "/export", None),
        ("POST", "/chat", said("Hi")),
        ("POST", "/fork", {}),
        ("POST", "/compact", {}),
    ):
        answered = ask(method, f"/{hidden}{path}", body, key=OTHER)
        assert (answered.status, answered.json()["error"]["code"]) == (404, "session_not_found")
    again = ask("POST", "", {"id": session})
    assert (again.status, again.json()["error"]["code"]) == (409, "session_exists")
    assert all(each["id"] != hidden for each in ask("GET", key=OTHER).json()["data"])


def test_a_deleted_session_is_gone(ask: Ask) -> None:
    session = begin(ask)
    ask("POST", f"/{session}/chat", said("Hi"))
    assert ask("DELETE", f"/{session}").json() == {"status": "deleted", "session_id": session}
    assert ask("GET", f"/{session}").status == 404
    assert ask("POST", f"/{session}/chat", said("Hi")).status == 404


def test_sessions_are_listed_by_pages_and_found_by_metadata(ask: Ask) -> None:
    made = [begin(ask, metadata={"project": "pages", "number": at}) for at in range(3)]
    first = ask("GET", "?limit=2&metadata[project]=pages").json()
    assert [each["id"] for each in first["data"]] == made[:0:-1]
    assert first["has_more"]
    rest = ask("GET", f"?limit=2&metadata[project]=pages&after={first['next_cursor']}").json()
    assert [each["id"] for each in rest["data"]] == made[:1]
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    (one,) = ask("GET", "?metadata[project]=pages&metadata[number]=1").json()["data"]
    assert one["id"] == made[1]


def test_metadata_may_have_any_names_and_is_found_by_short_ones(ask: Ask) -> None:
    odd = {"a'b\"]--": "x", "a__gt": "1", "Größe": "日本", "n" * 65: "long", "deep": {"a": 1}}
    made = begin(ask, metadata=odd)
    assert ask("GET", f"/{made}").json()["metadata"] == odd
    for name, value in list(odd.items())[:3]:
        query = urlencode({f"metadata[{name}]": value})
        assert [each["id"] for each in ask("GET", f"?{query}").json()["data"]] == [made], name
    for name, value in (("n" * 65, "long"), ("deep", "1"), ("a__gt", "0"), ("deep__a", "1")):
        assert ask("GET", "?" + urlencode({f"metadata[{name}]": value})).json()["data"] == []


def test_messages_are_read_by_pages(ask: Ask) -> None:
    session = begin(ask)
    for number in range(2):
        ask("POST", f"/{session}/chat", said(str(number)))
    page = ask("GET", f"/{session}?limit=3").json()
    assert (len(page["messages"]), page["has_more"]) == (3, True)
    rest = ask("GET", f"/{session}?limit=3&after={page['next_cursor']}").json()
    assert (len(rest["messages"]), rest["has_more"]) == (1, False)


def test_a_branch_begins_as_its_session_did(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask, system_prompt="Be brief.")
    for number in range(2):
        ask("POST", f"/{session}/chat", said(str(number)))
    second = messages_of(ask, session)[1]
    answered = ask("POST", f"/{session}/fork", {"at": second["id"]})
    branch = answered.json()
    assert (answered.status, branch["message_count"], branch["total_cost"]) == (201, 2, "0")
    ask("POST", f"/{branch['id']}/chat", said("other"))
    assert len(told(upstream)[-1]) == 4
    assert len(messages_of(ask, session)) == 4
    missing = ask("POST", f"/{session}/fork", {"at": "msg_none"})
    assert (missing.status, missing.json()["error"]["code"]) == (404, "message_not_found")


def test_an_exported_session_comes_back_the_same(ask: Ask) -> None:
    session = begin(ask, metadata={"a": [1, None]}, temperature=0.5, system_prompt="Å \u0000")
    ask("POST", f"/{session}/chat", said("Hi \u0000 there"))
    ask("POST", f"/{session}/chat", said("Again"))
    ask("POST", f"/{session}/compact", {})
    exported = ask("GET", f"/{session}/export")
    for key in (KEY, OTHER):
        made = ask("POST", "/import", exported.json(), key=key)
        assert made.status == 201, made.body
        back = ask("GET", f"/{made.json()['id']}/export", key=key)
        assert back.body == exported.body


def test_a_compacted_session_is_told_by_its_summary(ask: Ask, upstream: Upstream) -> None:
    session = begin(ask)
    assert ask("POST", f"/{session}/compact", {}).json()["error"]["code"] == "nothing_to_compact"
    for number in range(3):
        ask("POST", f"/{session}/chat", said(str(number)))
    compacted = ask("POST", f"/{session}/compact", {}).json()
    assert (compacted["status"], compacted["compacted_messages"]) == ("compacted", 4)
    summary, *rest = messages_of(ask, session)
    assert summary["summary"] and summary["content"].endswith("I was told 5.")
    assert [each["content"] for each in rest] == ["2", "I was told 5."]
    assert len(messages_of(ask, session, "?include=compacted")) == 7
    ask("POST", f"/{session}/chat", said("go on"))
    assert len(told(upstream)[-1]) == 4


@pytest.mark.parametrize(
    ("policy", "left_out"), [("error", None), ("drop_oldest", True), ("summarise", False)]
)
def test_a_conversation_longer_than_the_window_is_trimmed_as_told(
    ask: Ask, upstream: Upstream, policy: str, left_out: bool | None
) -> None:
    session = begin(ask, model="scripted/tiny", truncation=policy, max_tokens=50)
    answered = None
    for number in range(6):
        answered = ask("POST", f"/{session}/chat", said(f"{number} " + "word " * 80))
    assert answered is not None
    if left_out is None:
        assert answered.json()["error"]["code"] == "context_length_exceeded"
        return
    assert answered.status == 200, answered.body
    assert ("x-gateway-truncated" in answered.headers) is left_out
    assert len(upstream.asked[-1].body) < 4 * 600
    last = told(upstream)[-1]
    assert last[0][0] == ("user" if left_out else "system")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"modell": "x"}, "modell"),
        ("", {"id": "a/b"}, "id"),
        ("", {"id": "import"}, "id"),
        ("", {"temperature": "hot"}, "temperature"),
        ("", {"temperature": 99}, "temperature"),
        ("", {"max_tokens": 0}, "max_tokens"),
        ("", {"provider": "p" * 101}, "provider"),
        ("", {"metadata": []}, "metadata"),
        ("", {"truncation": "maybe"}, "truncation"),
        ("/chat", {"messages": []}, "messages"),
        ("/chat", {**said("x"), "n": 2}, "n"),
        ("/chat", {**said("x"), "truncation": "x"}, "truncation"),
        ("/chat", {"messages": [{"role": "user"}]}, "messages[0]"),
        ("/fork", {"at": 3}, "at"),
        ("/compact", {"keep": 1}, "keep"),
    ],
)
def test_what_is_wrong_is_named(
    ask: Ask, upstream: Upstream, path: str, body: Any, param: str
) -> None:
    session = f"/{begin(ask)}" if path else ""
    answered = ask("POST", f"{session}{path}", body)
    error = answered.json()["error"]
    assert (answered.status, error["param"]) == (400, param), error
    assert upstream.asked == []


def test_a_damaged_document_is_refused(ask: Ask) -> None:
    exported = ask("GET", f"/{begin(ask)}/export").json()
    message = {"id": "m", "number": 2, "created_at": "2026-11-25T00:00:00+00:00"}
    for change in (
        {"version": 9},
        {"messages": [{**message, "message": {"role": "ghost"}}]},
        {"messages": [{**message, "message": {"role": "user", "content": "x"}}] * 2},
        {"messages": [{**message, "number": "2", "message": {"role": "user", "content": "x"}}]},
        {"created_at": "yesterday"},
        {"session": {"unknown": 1}},
    ):
        answered = ask("POST", "/import", {**exported, **change})
        assert answered.status == 400, (change, answered.body)
