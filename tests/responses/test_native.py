"""Upstreams that have the Responses API themselves: what they are sent, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.gateway import Gateway, wait_until
from tests.responses.calls import (
    MODEL,
    NATIVE,
    OTHER_KEY,
    call,
    conversation,
    create,
    in_turn,
    read_events,
    response,
    typed,
    typed_events,
)
from tests.upstream import DONE, Asked, Peer, Upstream, chunks, completion, streaming, whole

pytestmark = pytest.mark.once

SEARCH = {"type": "web_search"}
REASONING = {
    "id": "rs_upstream_1",
    "type": "reasoning",
    "summary": [],
    "encrypted_content": "opaque==",
}


def test_the_body_goes_up_as_it_came_but_for_the_model(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, response())
    body = {
        "input": [{"role": "user", "content": "x"}],
        "tools": [SEARCH],
        "include": ["reasoning.encrypted_content"],
        "truncation": "auto",
        "vendor": {"a": 1},
        "previous_response_id": None,
        "store": False,
    }
    answered = call(served, "POST", "", {"model": NATIVE, **body})
    (asked,) = upstream.asked
    assert asked.path == "/v1/responses"
    assert asked.json() == {"model": "gpt-4o-mini", **body}
    assert asked.headers["authorization"] == "Bearer sk-upstream-0123456789"
    assert "x-gateway-dropped-params" not in answered.headers


def test_fields_that_name_another_upstream_stay_here_and_are_told(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response())
    body = {"model": NATIVE, "input": "x", "api_base": "http://elsewhere", "api_key": "k"}
    answered = call(served, "POST", "", body)
    (asked,) = upstream.asked
    assert asked.json() == {"model": "gpt-4o-mini", "input": "x"}
    assert answered.headers["x-gateway-dropped-params"] == "api_base, api_key"


def test_the_answer_comes_down_byte_for_byte_and_is_metered(
    served: Gateway, upstream: Upstream
) -> None:
    raw = json.dumps(response(), indent=1).encode()
    upstream.script = whole(200, raw)
    answered = call(
        served, "POST", "", {"model": NATIVE, "input": "x"}, x_request_id="native-bytes"
    )
    assert answered.body == raw
    wait_until(lambda: "native-bytes" in {row.request_id for row in served.rows()}, seconds=10)
    (row,) = [row for row in served.rows() if row.request_id == "native-bytes"]
    assert (row.status, row.tokens_input, row.tokens_output) == ("success", 9, 3)


def test_a_stream_comes_down_event_for_event_in_whatever_pieces(
    served: Gateway, upstream: Upstream
) -> None:
    sent = b"".join(typed_events(response()))
    crooked = sent.replace(b"\n", b"\r\n").replace(b"event: ", b"event:")
    for pieces in ([sent], [crooked[at : at + 37] for at in range(0, len(crooked), 37)]):
        upstream.script = streaming(pieces)
        answered = call(served, "POST", "", {"model": NATIVE, "input": "x", "stream": True})
        assert answered.body == sent


def test_event_lines_and_numbers_that_are_missing_are_put_in(
    served: Gateway, upstream: Upstream
) -> None:
    bare = []
    for event in typed_events(response()):
        fields = json.loads(event.split(b"data: ")[1])
        del fields["sequence_number"]
        bare.append(b"data: %b\n\n" % json.dumps(fields).encode())
    upstream.script = streaming([b": hello\n\n", *bare, DONE])
    answered = call(served, "POST", "", {"model": NATIVE, "input": "x", "stream": True})
    assert read_events(answered.body) == read_events(b"".join(typed_events(response())))


def test_the_stream_helper_understands_it(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = streaming(typed_events(response("Hello there.")))
    with client.responses.stream(model=NATIVE, input="x") as stream:
        final = stream.get_final_response()
    assert final.output_text == "Hello there."
    assert client.responses.retrieve(final.id).output_text == "Hello there."


def test_a_stream_that_is_answered_whole_is_streamed_all_the_same(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, response("Hello there."))
    with client.responses.stream(model=NATIVE, input="x") as stream:
        final = stream.get_final_response()
    assert final.output_text == "Hello there."


# --- failures -----------------------------------------------------------------------------------


def failed(code: str, message: str = "It broke at 10.0.0.1.") -> dict[str, Any]:
    return response(status="failed", output=[], error={"code": code, "message": message})


def test_a_failed_response_is_an_error_with_a_status(served: Gateway, upstream: Upstream) -> None:
    for code, status in (
        ("server_error", 502),
        ("rate_limit_exceeded", 429),
        ("invalid_prompt", 400),
    ):
        upstream.script = whole(200, failed(code))
        assert call(served, "POST", "", {"model": NATIVE, "input": "x"}).status == status


def test_a_response_that_fails_before_any_output_has_a_status(
    served: Gateway, upstream: Upstream
) -> None:
    start = typed_events(response())[:2]
    end = typed(
        {"type": "response.failed", "response": failed("server_error"), "sequence_number": 2}
    )
    upstream.script = streaming([*start, end])
    answered = call(served, "POST", "", {"model": NATIVE, "input": "x", "stream": True})
    assert answered.status == 502


def test_a_response_that_fails_later_says_so_once(served: Gateway, upstream: Upstream) -> None:
    events = typed_events(response())[:5]
    end = {
        "type": "response.failed",
        "sequence_number": 5,
        "response": failed("server_error", "No sk-upstream-0123456789 here."),
    }
    upstream.script = streaming([*events, typed(end)])
    answered = call(
        served, "POST", "", {"model": NATIVE, "input": "x", "stream": True}, x_request_id="late"
    )
    got = read_events(answered.body)
    assert [each["type"] for each in got][-2:] == ["response.output_text.delta", "response.failed"]
    assert b"sk-upstream" not in answered.body
    stored = call(served, "GET", f"/{got[-1]['response']['id']}")
    assert stored.json() == got[-1]["response"]
    wait_until(lambda: "late" in {row.request_id for row in served.rows()}, seconds=10)
    (row,) = [row for row in served.rows() if row.request_id == "late"]
    assert row.status == "error"


def test_a_response_that_is_cut_short_is_stored_as_it_is(
    served: Gateway, upstream: Upstream
) -> None:
    short = response(
        id="resp_short", status="incomplete", incomplete_details={"reason": "max_output_tokens"}
    )
    end = {"type": "response.incomplete", "sequence_number": 8, "response": short}
    upstream.script = streaming([*typed_events(short)[:-1], typed(end)])
    body = {"model": NATIVE, "input": "x", "stream": True}
    assert read_events(call(served, "POST", "", body).body)[-1] == end
    assert call(served, "GET", "/resp_short").json() == short
    upstream.script = whole(200, response(id="resp_after_short"))
    create(served, model=NATIVE, previous_response_id="resp_short")


def test_a_failed_response_is_stored_only_where_that_is_wanted(
    served: Gateway, upstream: Upstream
) -> None:
    broken = {**failed("server_error"), "id": "resp_failed"}
    end = {"type": "response.failed", "sequence_number": 5, "response": broken}
    upstream.script = streaming([*typed_events(response())[:5], typed(end)])
    body = {"model": NATIVE, "input": "x", "stream": True}
    call(served, "POST", "", {**body, "store": False})
    assert call(served, "GET", "/resp_failed").status == 404
    call(served, "POST", "", body)
    assert call(served, "GET", "/resp_failed").json()["status"] == "failed"
    after = {"model": NATIVE, "input": "x", "previous_response_id": "resp_failed"}
    assert call(served, "POST", "", after).status == 400


def test_a_stream_cut_off_ends_in_an_error_event(served: Gateway, upstream: Upstream) -> None:
    async def cut(asked: Asked, peer: Peer) -> None:
        peer.begin()
        for piece in typed_events(response())[:5]:
            peer.piece(piece)
        peer.end()

    upstream.script = cut
    answered = call(served, "POST", "", {"model": NATIVE, "input": "x", "stream": True})
    got = read_events(answered.body)
    assert got[-1]["type"] == "error"
    assert got[-1]["sequence_number"] == 5
    assert got[-1]["message"]


@pytest.mark.parametrize(
    "piece", [b"data: {\n\n", b"data: []\n\n", b"data: hello\n\n", b'data: {"type": 5}\n\n']
)
def test_what_is_no_event_ends_the_stream_with_an_error(
    served: Gateway, upstream: Upstream, piece: bytes
) -> None:
    upstream.script = streaming([*typed_events(response())[:5], piece])
    answered = call(served, "POST", "", {"model": NATIVE, "input": "x", "stream": True})
    assert read_events(answered.body)[-1]["type"] == "error"


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b"{}", b'{"output": 1}', b"null"])
def test_an_answer_that_is_no_response_is_502(
    served: Gateway, upstream: Upstream, body: bytes
) -> None:
    upstream.script = whole(200, body)
    assert call(served, "POST", "", {"model": NATIVE, "input": "x"}).status == 502


# --- who serves what ----------------------------------------------------------------------------


def test_hosted_tools_are_refused_by_name_where_nobody_has_them(
    served: Gateway, upstream: Upstream
) -> None:
    answered = call(served, "POST", "", {"model": MODEL, "input": "x", "tools": [SEARCH]})
    error = answered.json()["error"]
    assert (answered.status, error["param"]) == (400, "tools[0].type")
    assert "web_search" in error["message"]
    assert upstream.asked == []


def test_a_route_serves_hosted_tools_by_the_provider_that_has_them(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response())
    body = {"model": "mixed", "input": "x", "tools": [SEARCH]}
    answered = call(served, "POST", "", body)
    assert answered.headers["x-gateway-provider"] == "native"
    assert [each.path for each in upstream.asked] == ["/v1/responses"]


def test_a_route_falls_back_from_one_way_to_the_other(served: Gateway, upstream: Upstream) -> None:
    upstream.script = in_turn(whole(500, {"error": {"message": "no"}}), whole(200, response()))
    answered = call(served, "POST", "", {"model": "mixed", "input": "x"})
    assert answered.status == 200
    assert [each.path for each in upstream.asked] == ["/v1/chat/completions", "/v1/responses"]


def test_an_upstream_that_turns_out_to_have_chat_only_is_translated_to(
    served: Gateway, upstream: Upstream
) -> None:
    async def chat_only(asked: Asked, peer: Peer) -> None:
        if asked.path.endswith("/responses"):
            peer.answer(404, b'{"detail": "Not Found"}')
        elif asked.json().get("stream"):
            await streaming(chunks("Hello"))(asked, peer)
        else:
            peer.answer(200, json.dumps(completion("Hello")).encode())

    upstream.script = chat_only
    model = "native2/no-responses-here"
    for stream in (False, True, False):
        answered = call(served, "POST", "", {"model": model, "input": "x", "stream": stream})
        assert answered.status == 200
        assert b"Hello" in answered.body
    assert [each.path.rpartition("/")[2] for each in upstream.asked] == [
        "responses",
        *["completions"] * 3,
    ]
    hosted = call(served, "POST", "", {"model": model, "input": "x", "tools": [SEARCH]})
    assert (hosted.status, hosted.json()["error"]["code"]) == (501, "unsupported_endpoint")


def test_a_route_goes_on_to_the_next_where_the_first_lacks_the_api(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = in_turn(whole(405, b""), whole(200, response()))
    answered = call(served, "POST", "", {"model": "lacking", "input": "x", "tools": [SEARCH]})
    assert answered.headers["x-gateway-provider"] == "native"
    assert answered.json() == response()


def test_an_unknown_model_is_the_upstreams_404(served: Gateway, upstream: Upstream) -> None:
    error = {"message": "The model 'x' does not exist.", "code": "model_not_found"}
    upstream.script = whole(404, {"error": error})
    answered = call(served, "POST", "", {"model": "native/x", "input": "x"})
    assert (answered.status, answered.json()["error"]["code"]) == (404, "model_not_found")
    assert [each.path for each in upstream.asked] == ["/v1/responses"]


# --- what follows on ----------------------------------------------------------------------------


def test_a_follow_up_goes_to_the_provider_that_keeps_the_response(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response(id="resp_kept"))
    create(served, model=NATIVE)
    upstream.script = whole(200, response(id="resp_next", previous_response_id="resp_kept"))
    answered = call(
        served,
        "POST",
        "",
        {"model": "twins", "input": "And?", "previous_response_id": "resp_kept"},
    )
    assert answered.headers["x-gateway-provider"] == "native"
    assert upstream.asked[-1].json() == {
        "model": "gpt-4o-mini",
        "input": "And?",
        "previous_response_id": "resp_kept",
    }


def test_another_provider_is_given_the_history_in_full(served: Gateway, upstream: Upstream) -> None:
    output = [REASONING, *response("I am one.")["output"]]
    upstream.script = whole(200, response(id="resp_moved", output=output))
    create(served, model="native2/gpt-4o-mini", input="One.")
    upstream.script = whole(200, response(id="resp_moved_2"))
    moved = create(served, model=NATIVE, input="Two.", previous_response_id="resp_moved")
    assert moved["previous_response_id"] == "resp_moved"
    sent = upstream.asked[-1].json()
    assert "previous_response_id" not in sent
    assert [(each["role"], each["content"]) for each in sent["input"]] == [
        ("user", [{"type": "input_text", "text": "One."}]),
        ("assistant", response("I am one.")["output"][0]["content"]),
        ("user", "Two."),
    ]


def test_a_conversation_may_move_to_a_provider_with_chat_only_and_back(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response("I am one.", id="resp_back_1"))
    create(served, model=NATIVE, input="One.")
    upstream.script = whole(200, completion("I am two."))
    two = create(served, model=MODEL, input="Two.", previous_response_id="resp_back_1")
    assert upstream.asked[-1].json()["messages"] == [
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": "I am one."},
        {"role": "user", "content": "Two."},
    ]
    upstream.script = streaming(typed_events(response("I am three.", id="resp_back_3")))
    body = {"model": NATIVE, "input": "Three.", "previous_response_id": two["id"], "stream": True}
    events = read_events(call(served, "POST", "", body).body)
    assert events[-1]["response"]["previous_response_id"] == two["id"]
    assert len(upstream.asked[-1].json()["input"]) == 5


def test_a_response_the_provider_does_not_keep_is_gone_on_from_in_full(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response(id="resp_stateless", store=False))
    create(served, model=NATIVE, input="One.")
    create(served, model=NATIVE, input="Two.", previous_response_id="resp_stateless")
    sent = upstream.asked[-1].json()
    assert "previous_response_id" not in sent
    assert len(sent["input"]) == 3


def test_encrypted_reasoning_goes_back_to_the_credential_that_made_it(
    served: Gateway, upstream: Upstream
) -> None:
    """M40: also where nothing was stored."""
    upstream.script = whole(200, response(output=[{**REASONING, "id": "rs_m40"}]))
    made = create(served, model=NATIVE, store=False)
    items = [{"role": "user", "content": "x"}, *made["output"], {"role": "user", "content": "y"}]
    body = {"model": "twins", "input": items, "store": False}
    answered = call(served, "POST", "", body)
    assert answered.headers["x-gateway-provider"] == "native"
    assert upstream.asked[-1].json()["input"] == items
    elsewhere = call(served, "POST", "", {**body, "model": "native2/gpt-4o-mini"})
    assert elsewhere.status == 200
    assert [each.get("role") for each in upstream.asked[-1].json()["input"]] == ["user", "user"]


def test_another_keys_reasoning_pins_nothing(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, response(output=[{**REASONING, "id": "rs_others"}]))
    made = create(served, model=NATIVE, store=False, key=OTHER_KEY)
    items = [{"role": "user", "content": "x"}, *made["output"]]
    answered = call(served, "POST", "", {"model": "twins", "input": items, "store": False})
    assert answered.headers["x-gateway-provider"] == "native2"


def test_conversations_are_the_gateways_own(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, response("Yes.", id="resp_conv_1"))
    named = conversation(served)
    create(served, model=NATIVE, input="One.", conversation=named)
    upstream.script = streaming(typed_events(response("Yes.", id="resp_conv_2")))
    body = {"model": NATIVE, "input": "Two.", "conversation": named, "stream": True}
    events = read_events(call(served, "POST", "", body).body)
    sent = upstream.asked[-1].json()
    assert "conversation" not in sent
    assert len(sent["input"]) == 3
    told = [each["response"]["conversation"] for each in events if "response" in each]
    assert told == [{"id": named}] * 3


# --- what a provider keeps ----------------------------------------------------------------------

CONVERSATION = "conv_" + "0a" * 24


def test_an_id_nobody_here_knows_is_the_providers_to_know(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(
        200, response(id="resp_after_direct", previous_response_id="resp_direct")
    )
    body = {"model": NATIVE, "input": "x", "previous_response_id": "resp_direct"}
    answered = call(served, "POST", "", body)
    assert answered.json() == response(id="resp_after_direct", previous_response_id="resp_direct")
    assert upstream.asked[-1].json()["previous_response_id"] == "resp_direct"
    upstream.asked = []
    for model in (MODEL, "twins"):  # nobody would have it, or nobody knows who
        assert call(served, "POST", "", {**body, "model": model}).status == 400
    assert upstream.asked == []


def test_a_conversation_a_provider_keeps_goes_on_there_and_only_for_its_key(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response(id="resp_kept_1", conversation={"id": CONVERSATION}))
    body = {"model": NATIVE, "input": "x", "conversation": {"id": CONVERSATION}}
    for _ in range(2):
        assert call(served, "POST", "", body).json()["conversation"] == {"id": CONVERSATION}
        assert upstream.asked[-1].json() == {**body, "model": "gpt-4o-mini"}
    upstream.asked = []
    theirs = call(served, "POST", "", body, key=OTHER_KEY)
    assert (theirs.status, theirs.json()["error"]["param"]) == (404, "conversation")
    unknown = {**body, "model": MODEL, "conversation": "conv_" + "0b" * 24}
    assert call(served, "POST", "", unknown).status == 404
    assert upstream.asked == []


def test_deleting_a_response_deletes_it_at_its_provider(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, response(id="resp_to_delete"))
    create(served, model=NATIVE)
    upstream.script = whole(500, {"error": {"message": "not now"}})
    assert call(served, "DELETE", "/resp_to_delete").status == 502
    assert call(served, "GET", "/resp_to_delete").status == 200
    upstream.script = whole(200, {"deleted": True})
    assert call(served, "DELETE", "/resp_to_delete").status == 200
    assert (upstream.asked[-1].method, upstream.asked[-1].path) == (
        "DELETE",
        "/v1/responses/resp_to_delete",
    )
    assert call(served, "GET", "/resp_to_delete").status == 404
