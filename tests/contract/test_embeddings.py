"""Embeddings of every kind: vectors in OpenAI's shape, or an error of the right class."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from chat.errors import GatewayError, UnsupportedEndpoint, UpstreamError
from chat.requests import EmbeddingsParams, EmbeddingsRequest
from tests.contract.stage import FakeStage, HttpStage
from tests.contract.test_failures import STATUSES, expect, keeps_quiet, telltales
from tests.contract.test_hostile import NO_ANSWER, NO_JSON, changed, changes, raw

pytestmark = pytest.mark.once

VECTORS = [[0.25, -0.5, 1.0], [0.0, 2.0, -4.0]]


def wanted(**fields: Any) -> EmbeddingsRequest:
    body = {"model": "x", "input": ["one", "two"], **fields}
    return EmbeddingsRequest(msgspec.convert(body, EmbeddingsParams), body, size=100)


def answered(stage: HttpStage) -> bytes | None:
    body = stage.dialect.embedded(VECTORS)
    return None if body is None else json.dumps(body).encode()


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_vectors_come_in_the_form_that_was_asked_for(
    http_stage: HttpStage, form: str
) -> None:
    body = answered(http_stage)
    if body is None:
        with pytest.raises(UnsupportedEndpoint):
            await http_stage.answering(b"").embed(wanted())
        return
    reply = await http_stage.answering(body).embed(wanted(encoding_format=form))
    found = [each["embedding"] for each in json.loads(reply.body)["data"]]
    if form == "base64":
        found = [list(struct.unpack("<3f", base64.b64decode(each))) for each in found]
    assert found == VECTORS
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 9


async def test_a_status_is_an_error_of_the_right_class(http_stage: HttpStage) -> None:
    if answered(http_stage) is None:
        return
    for status in STATUSES:
        told = json.dumps(http_stage.dialect.error(telltales("10.9.8.7:65000"))).encode()
        for body in (b"<html>", b"", told):
            with pytest.raises(UpstreamError) as caught:
                await http_stage.answering(body, status).embed(wanted())
            expect(caught.value, status)
            keeps_quiet(caught.value, "10.9.8.7:65000")


@pytest.mark.parametrize("body", (NO_JSON | NO_ANSWER).values(), ids=(NO_JSON | NO_ANSWER).keys())
async def test_a_bad_body_is_an_upstream_error(http_stage: HttpStage, body: bytes) -> None:
    if answered(http_stage) is None:
        return
    with pytest.raises(UpstreamError):
        await http_stage.answering(body).embed(wanted())


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(change=changes())
async def test_any_change_to_the_vectors_is_survived(
    wire_stage: HttpStage, change: list[tuple[int, Any]]
) -> None:
    vectors = wire_stage.dialect.embedded(VECTORS)
    if vectors is None:
        return
    body = raw(changed(vectors, change))
    for form in (None, "float", "base64"):
        with contextlib.suppress(GatewayError):
            reply = await wire_stage.answering(body).embed(wanted(encoding_format=form))
            assert isinstance(json.loads(reply.body), dict)


async def test_a_fake_model_embeds_the_same_each_time_or_says_that_it_cannot() -> None:
    adapter = FakeStage().listing(["a-model"])
    try:
        first = await adapter.embed(wanted())
    except UnsupportedEndpoint:
        return
    assert (await adapter.embed(wanted())).body == first.body
