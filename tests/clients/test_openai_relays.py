"""OpenAI's own Python client on the endpoints that are relayed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway import KEY, Gateway, wait_until
from tests.upstream import Asked, Peer, Upstream, event, silence, whole

pytestmark = pytest.mark.once

FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 3,
    "created_at": 1,
    "filename": "a.jsonl",
    "purpose": "batch",
    "status": "processed",
}
BATCH = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-1",
    "completion_window": "24h",
    "status": "validating",
    "created_at": 1,
}
AUDIO = b"\x00\xff--\r\n" * 1000


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def form_of(asked: Asked) -> dict[str, bytes]:
    """The fields of a form, by a reader of its own."""
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    found = {}
    for part in asked.body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        found[name] = value.removesuffix(b"\r\n")
    return found


def test_moderations(client: openai.OpenAI, gateway: Gateway, upstream: Upstream) -> None:
    result = {"flagged": True, "categories": {}, "category_scores": {}}
    upstream.script = whole(200, {"id": "modr-1", "model": "omni", "results": [result]})
    answer = client.moderations.create(
        model="scripted/omni-moderation-latest",
        input="a",
        extra_headers={"x-request-id": "relay-1"},
    )
    assert answer.results[0].flagged
    (asked,) = upstream.asked
    assert asked.path == "/v1/moderations"
    assert asked.json() == {"model": "omni-moderation-latest", "input": "a"}
    assert asked.headers["authorization"] == "Bearer sk-upstream-0123456789"
    assert KEY not in str(asked.headers)
    row = gateway.usage_row("relay-1")
    assert (row["endpoint"], row["provider"], row["status"]) == (
        "moderations",
        "scripted",
        "success",
    )
    assert (row["tokens_input"], row["cost_usd"], row["estimated"]) == (0, None, False)


def test_without_a_model_the_only_provider_that_can_is_asked(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, {"id": "modr-1", "model": "omni", "results": []})
    client.moderations.create(input="a", extra_query={"provider": "scripted"})
    assert upstream.asked[0].json() == {"input": "a"}
    assert upstream.asked[0].path == "/v1/moderations"


def test_images_are_metered_by_what_the_answer_tells(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    usage = {"input_tokens": 11, "output_tokens": 22, "total_tokens": 33}
    upstream.script = whole(200, {"created": 1, "data": [{"b64_json": "QUJD"}], "usage": usage})
    answer = client.images.generate(
        model="scripted/gpt-image-1", prompt="a cat", extra_headers={"x-request-id": "relay-2"}
    )
    assert answer.data is not None
    assert answer.data[0].b64_json == "QUJD"
    row = gateway.usage_row("relay-2")
    assert (row["tokens_input"], row["tokens_output"]) == (11, 22)
    assert row["endpoint"] == "images.generations"


def test_a_large_image_is_metered_by_its_end(gateway: Gateway, upstream: Upstream) -> None:
    usage = {"input_tokens": 11, "output_tokens": 22}
    image = {"created": 1, "data": [{"b64_json": "Q" * 3_000_000}], "usage": usage}
    upstream.script = whole(200, image)
    request = {"model": "scripted/gpt-image-1", "prompt": "a"}
    answered = gateway.post("/v1/images/generations", request, x_request_id="relay-3")
    assert answered.json() == image
    assert gateway.usage_row("relay-3")["tokens_output"] == 22


def test_image_edits_are_forms(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, {"created": 1, "data": []})
    client.images.edit(
        model="scripted/gpt-image-1", image=("a.png", AUDIO, "image/png"), prompt="bluer"
    )
    form = form_of(upstream.asked[0])
    assert (form["model"], form["image"], form["prompt"]) == (b"gpt-image-1", AUDIO, b"bluer")


def test_image_variations_are_forms(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, {"created": 1, "data": []})
    with pytest.warns(DeprecationWarning):
        client.images.create_variation(model="scripted/dall-e-2", image=("a.png", AUDIO))
    assert upstream.asked[0].path == "/v1/images/variations"
    assert form_of(upstream.asked[0])["model"] == b"dall-e-2"


def test_speech_comes_as_it_is_made(client: openai.OpenAI, upstream: Upstream) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin(content_type="audio/mpeg")
        peer.piece(AUDIO)
        peer.piece(b"end")
        peer.end()

    upstream.script = script
    with client.audio.speech.with_streaming_response.create(
        model="scripted/tts-1", voice="alloy", input="Hello."
    ) as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        assert b"".join(answer.iter_bytes()) == AUDIO + b"end"
    assert upstream.asked[0].json() == {"model": "tts-1", "voice": "alloy", "input": "Hello."}


def test_a_recording_is_transcribed(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    upstream.script = whole(200, {"text": "Hello.", "usage": usage})
    answer = client.audio.transcriptions.create(
        model="scripted/gpt-4o-transcribe",
        file=("a.mp3", AUDIO),
        extra_headers={"x-request-id": "relay-4"},
    )
    assert answer.text == "Hello."
    (asked,) = upstream.asked
    assert asked.path == "/v1/audio/transcriptions"
    assert int(asked.headers["content-length"]) == len(asked.body)
    form = form_of(asked)
    assert (form["model"], form["file"]) == (b"gpt-4o-transcribe", AUDIO)
    row = gateway.usage_row("relay-4")
    assert (row["tokens_input"], row["tokens_output"]) == (14, 45)


def test_seconds_of_audio_are_no_tokens(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, {"text": "Hi", "usage": {"type": "duration", "seconds": 3}})
    answered = post_form(gateway, [("model", b"scripted/whisper-1"), ("file", AUDIO)], "relay-5")
    assert answered.status == 200
    row = gateway.usage_row("relay-5")
    assert (row["tokens_input"], row["cost_usd"]) == (0, None)


def test_a_streamed_transcription_is_metered_by_its_last_event(
    client: openai.OpenAI, gateway: Gateway, upstream: Upstream
) -> None:
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}

    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin()
        peer.piece(event({"type": "transcript.text.delta", "delta": "Hel"}))
        peer.piece(event({"type": "transcript.text.done", "text": "Hello", "usage": usage}))
        peer.end()

    upstream.script = script
    stream = client.audio.transcriptions.create(
        model="scripted/gpt-4o-transcribe",
        file=("a.mp3", AUDIO),
        stream=True,
        extra_headers={"x-request-id": "relay-6"},
    )
    assert [each.type for each in stream] == ["transcript.text.delta", "transcript.text.done"]
    assert gateway.usage_row("relay-6")["tokens_output"] == 45


def test_translations(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, {"text": "Hello."})
    with pytest.warns(DeprecationWarning):
        client.audio.translations.create(model="scripted/whisper-1", file=("a.mp3", AUDIO))
    assert upstream.asked[0].path == "/v1/audio/translations"


def test_a_model_that_stands_after_the_file_is_rewritten(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, {"text": "Hello."})
    recording = AUDIO * 500  # more than is held in memory
    answered = post_form(gateway, [("file", recording), ("model", b"scripted/whisper-1")])
    assert answered.status == 200
    form = form_of(upstream.asked[0])
    assert (form["file"] == recording, form["model"]) == (True, b"whisper-1")


def test_a_form_of_unknown_length_goes_on_in_chunks(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, {"text": "Hello."})
    body = form([("model", b"scripted/whisper-1"), ("file", AUDIO)])
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    answered = gateway.call(
        "POST",
        "/v1/audio/transcriptions",
        b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""]),
        {
            "authorization": f"Bearer {KEY}",
            "content-type": "multipart/form-data; boundary=form",
            "transfer-encoding": "chunked",
        },
    )
    assert answered.status == 200, answered
    assert form_of(upstream.asked[0])["model"] == b"whisper-1"


def test_an_empty_model_is_none(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, {"text": "Hello."})
    answered = post_form(gateway, [("model", b""), ("file", AUDIO)])
    assert answered.status == 200
    assert form_of(upstream.asked[0]) == {"model": b"", "file": AUDIO}


def test_rerank(gateway: Gateway, upstream: Upstream) -> None:
    answer = {
        "model": "rerank",
        "usage": {"total_tokens": 9},
        "results": [{"index": 0, "relevance_score": 0.9, "document": {"usage": {"x": 1}}}],
    }
    upstream.script = whole(200, answer)
    request = {"model": "scripted/rerank", "query": "a", "documents": ["b"]}
    answered = gateway.post("/v1/rerank", request, x_request_id="relay-7")
    assert answered.json() == answer
    assert upstream.asked[0].json()["model"] == "rerank"
    assert gateway.usage_row("relay-7")["tokens_input"] == 9


def test_files(client: openai.OpenAI, gateway: Gateway, upstream: Upstream) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        if asked.path.endswith("/content"):
            peer.answer(200, b"<script>alert(1)</script>", content_type="text/html")
        elif asked.method == "GET" and asked.path.startswith("/v1/files?"):
            page = {"object": "list", "data": [FILE], "has_more": False}
            peer.answer(200, json.dumps(page).encode())
        elif asked.method == "DELETE":
            gone = {"id": "file-1", "object": "file", "deleted": True}
            peer.answer(200, json.dumps(gone).encode())
        else:
            peer.answer(200, json.dumps(FILE).encode())

    upstream.script = script
    mine = client.with_options(default_headers={"x-gateway-provider": "scripted"})
    assert mine.files.create(file=("a.jsonl", b"{}\n"), purpose="batch").id == "file-1"
    assert mine.files.list(limit=2, purpose="batch").data[0].id == "file-1"
    assert mine.files.retrieve("file-1").filename == "a.jsonl"
    assert mine.files.delete("file-1").deleted
    content = mine.files.content("file-1")
    assert content.read() == b"<script>alert(1)</script>"
    # Uploaded by somebody, shown to somebody else: never as a page of ours.
    assert content.response.headers["content-type"] == "application/octet-stream"
    assert content.response.headers["x-content-type-options"] == "nosniff"
    assert content.response.headers["content-disposition"] == "attachment"
    assert [f"{each.method} {each.path}" for each in upstream.asked] == [
        "POST /v1/files",
        "GET /v1/files?limit=2&purpose=batch",
        "GET /v1/files/file-1",
        "DELETE /v1/files/file-1",
        "GET /v1/files/file-1/content",
    ]
    sent = form_of(upstream.asked[0])
    assert (sent["purpose"], sent["file"]) == (b"batch", b"{}\n")


def test_batches(client: openai.OpenAI, gateway: Gateway, upstream: Upstream) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        page = {"object": "list", "data": [BATCH], "has_more": False}
        is_list = asked.method == "GET" and asked.path == "/v1/batches"
        peer.answer(200, json.dumps(page if is_list else BATCH).encode())

    upstream.script = script
    mine = client.with_options(default_query={"provider": "scripted"})
    created = mine.batches.create(
        input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert created.id == "batch_1"
    assert mine.batches.list().data[0].id == "batch_1"
    assert mine.batches.retrieve("batch_1").id == "batch_1"
    assert mine.batches.cancel("batch_1").id == "batch_1"
    assert [f"{each.method} {each.path}" for each in upstream.asked] == [
        "POST /v1/batches",
        "GET /v1/batches",
        "GET /v1/batches/batch_1",
        "POST /v1/batches/batch_1/cancel",
    ]


@pytest.mark.parametrize("identifier", ["..", ".hidden", "a%2Fb", "a%3Fb", "a b", "é", "x" * 201])
def test_an_id_that_leaves_its_place_is_404(
    gateway: Gateway, upstream: Upstream, identifier: str
) -> None:
    path = f"/v1/files/{identifier.replace(' ', '%20').replace('é', '%C3%A9')}"
    answered = gateway.call("GET", path, headers={"authorization": f"Bearer {KEY}"})
    assert answered.status in (400, 404)
    assert upstream.asked == []


# --- failures -----------------------------------------------------------------------------------


def test_an_upstreams_refusal_is_told_as_it_came(client: openai.OpenAI, upstream: Upstream) -> None:
    error = {"message": "Bad voice.", "type": "invalid_request_error", "param": "voice"}
    upstream.script = whole(400, {"error": error})
    with pytest.raises(openai.BadRequestError, match="Bad voice"):
        client.audio.speech.create(model="scripted/tts-1", voice="x", input="a")


def test_a_refused_credential_of_ours_is_502(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(401, {"error": {"message": "sk-upstream-0123456789 is wrong"}})
    with pytest.raises(openai.InternalServerError) as caught:
        client.moderations.create(model="scripted/m", input="a")
    assert caught.value.status_code == 502
    assert "sk-upstream" not in str(caught.value)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_upstream_without_the_endpoint_is_501(
    gateway: Gateway, upstream: Upstream, status: int
) -> None:
    upstream.script = whole(status, {"detail": "Not Found"})
    answered = gateway.post("/v1/rerank", {"model": "scripted/m", "query": "a", "documents": []})
    assert answered.status == 501
    error = answered.json()["error"]
    assert error["code"] == "unsupported_endpoint"
    assert error["message"].endswith("No other provider here has.")


def test_a_redirect_is_not_followed(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(302, b"", location="http://169.254.169.254/")
    answered = gateway.post("/v1/moderations", {"model": "scripted/m", "input": "a"})
    assert answered.status == 502
    assert b"169.254" not in answered.body
    assert len(upstream.asked) == 1


def test_an_answer_that_breaks_off_breaks_off_for_the_caller(
    gateway: Gateway, upstream: Upstream
) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin(content_type="audio/mpeg")
        peer.piece(AUDIO)
        peer.hang_up()

    upstream.script = script
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(Exception, match="(?i)incomplete|closed|read"),
        client.audio.speech.with_streaming_response.create(
            model="scripted/tts-1",
            voice="alloy",
            input="a",
            extra_headers={"x-request-id": "relay-8"},
        ) as answer,
    ):
        list(answer.iter_bytes())
    assert gateway.usage_row("relay-8")["status"] == "error"


def test_a_caller_who_leaves_while_waiting_is_noticed_upstream(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = silence
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.files.list(extra_query={"provider": "scripted"}, timeout=0.3)
    wait_until(lambda: len(upstream.left) == 1, seconds=2)


def test_a_caller_who_leaves_a_download_is_noticed_upstream(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin(content_type="audio/mpeg")
        peer.piece(AUDIO)
        await silence(asked, peer)

    upstream.script = script
    with client.audio.speech.with_streaming_response.create(
        model="scripted/tts-1", voice="alloy", input="a"
    ) as answer:
        next(answer.iter_bytes())
    wait_until(lambda: len(upstream.left) == 1, seconds=2)


# --- wrong requests -----------------------------------------------------------------------------


def test_a_provider_that_does_not_exist_is_404(gateway: Gateway, upstream: Upstream) -> None:
    answered = gateway.post("/v1/moderations?provider=nobody", {"input": "a"})
    assert answered.status == 404
    assert answered.json()["error"]["code"] == "provider_not_found"


def test_a_provider_of_a_kind_without_it_is_501_and_names_who_has(
    gateway: Gateway, upstream: Upstream
) -> None:
    answered = gateway.post("/v1/moderations?provider=huggingface", {"input": "a"})
    assert answered.status == 501
    error = answered.json()["error"]
    assert error["code"] == "unsupported_endpoint"
    assert "scripted" in error["message"]


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        ("/v1/moderations", {"model": 5, "input": "a"}),
        ("/v1/images/generations", {"model": ["a"], "prompt": "a"}),
        ("/v1/audio/speech", {"model": "scripted/tts-1", "stream": "yes"}),
        ("/v1/rerank", []),
        ("/v1/batches", b"{"),
        ("/v1/batches", b""),
    ],
)
def test_a_wrong_body_is_400(
    gateway: Gateway, upstream: Upstream, path: str, request_body: Any
) -> None:
    answered = gateway.post(path, request_body)
    assert answered.status == 400
    assert upstream.asked == []


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/files", "/v1/audio/transcriptions"])
def test_another_content_type_is_415(gateway: Gateway, upstream: Upstream, path: str) -> None:
    answered = gateway.post(path, b"a", content_type="text/plain")
    assert answered.status == 415


@pytest.mark.parametrize(
    "fields",
    [
        [("model", b"scripted/whisper-1"), ("model", b"gpt-4o"), ("file", AUDIO)],
        [("file", AUDIO), ("model", b"scripted/whisper-1"), ("model", b"gpt-4o")],
        [("model", b"scripted/whisper-1"), ("api_base", b"http://127.0.0.1:1")],
    ],
)
def test_a_form_that_says_two_things_is_refused(
    gateway: Gateway, upstream: Upstream, fields: list[tuple[str, bytes]]
) -> None:
    upstream.script = whole(200, {"text": "Hello."})
    answered = post_form(gateway, fields)
    assert answered.status == 400
    assert upstream.asked == []


def test_a_form_nobody_can_take_is_refused_although_it_is_still_coming(
    gateway: Gateway, upstream: Upstream
) -> None:
    began = time.monotonic()
    answered = post_form(gateway, [("model", b"huggingface/x"), ("file", AUDIO * 2000)])
    assert answered.status == 501
    assert time.monotonic() - began < 5


def test_a_name_nobody_lists_is_the_only_able_providers(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(200, {"text": "Hello."})
    answered = post_form(gateway, [("model", b"whisper-1"), ("file", AUDIO)])
    assert answered.status == 200
    assert form_of(upstream.asked[0])["model"] == b"whisper-1"


def test_an_upstream_that_answers_early_is_heard_early(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.early = whole(400, {"error": {"message": "Too long.", "code": "too_long"}})
    fields = [("model", b"scripted/whisper-1"), ("file", AUDIO * 5000)]
    answered = post_form(gateway, fields)
    assert answered.status == 400
    assert answered.json()["error"]["code"] == "too_long"


def form(fields: list[tuple[str, bytes]]) -> bytes:
    parts = [
        b'--form\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (name.encode(), b'; filename="a.mp3"' if name == "file" else b"", value)
        for name, value in fields
    ]
    return b"".join([*parts, b"--form--\r\n"])


def post_form(
    gateway: Gateway, fields: list[tuple[str, bytes]], request_id: str = "relayed-form"
) -> Any:
    return gateway.post(
        "/v1/audio/transcriptions",
        form(fields),
        content_type="multipart/form-data; boundary=form",
        x_request_id=request_id,
    )
