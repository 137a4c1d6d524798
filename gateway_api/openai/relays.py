"""Endpoints of the OpenAI wire that are relayed to a provider that has them."""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import GatewayError, InvalidRequest, NotFound, UnsupportedEndpoint
from chat.parsing import convert, parse_object
from chat.relays import ACCOUNT_WIDE, Relay, RelayRequest
from gateway_api import pipeline
from gateway_api.answers import AnyAnswer
from gateway_api.async_view import AsyncAPIView, read_json_body
from gateway_api.exchange import Call
from gateway_api.openai.relay_schema import described
from gateway_api.relaying import relay
from gateway_api.resources import http_client, journal
from gateway_api.uploads import FormUpload
from providers.dispatch import Dispatch
from providers.relaying import find_relay_plan, unsupported

_ID = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,199}")
_LIST_PARAMETERS = ("after", "limit", "order", "purpose")


class _Looked(msgspec.Struct):
    """The fields of a relayed request the gateway looks at."""

    model: str | None = None
    stream: bool | None = None


class RelayView(AsyncAPIView):
    """Passes requests on, bodies and answers as they come."""

    family: ClassVar[Relay]
    http_method_names = ["get", "post", "delete", "options"]

    async def pass_on(
        self, request: Request, path: str, *, endpoint: str, has_body: bool = True
    ) -> AnyAnswer:
        """Relays to `path` below the upstream's base address; the ledger knows it as `endpoint`."""
        asked = RelayRequest(self.family, request.method or "", path)
        try:
            if has_body:
                await _read_body(asked, request)
            else:
                await _drain(request)  # a caller is only watched once its body is read
            return await self._relay(asked, request, endpoint)
        except GatewayError:
            await _drain(request)
            raise
        finally:
            # A stream goes on after this, but an answer that has begun has had the whole form.
            if isinstance(asked.upload, FormUpload):
                asked.upload.close()

    async def _relay(self, asked: RelayRequest, request: Request, endpoint: str) -> AnyAnswer:
        http_request: Any = request._request
        call = Call(
            caller=self.caller,
            request=asked,
            request_id=http_request.request_id,
            wire="openai",
            endpoint=endpoint,
            started=http_request.started,
            traceparent=http_request.traceparent,
        )
        configuration = pipeline.configuration_in_force()
        http = http_client()
        plan = await find_relay_plan(
            configuration, asked, provider=_named_provider(request), rights=self.caller, http=http
        )
        dispatch = Dispatch(configuration, http, plan, asked)
        exchange = pipeline.admitted(call, dispatch, journal=journal())
        try:
            return await relay(exchange, asked)
        except UnsupportedEndpoint:  # a server of an unknown make, which was asked to find out
            asked_in_vain = exchange.dispatch.target.provider.name
            raise unsupported(configuration, self.family, self.caller, but=asked_in_vain) from None


def _named_provider(request: Request) -> str | None:
    http_request: Any = request._request
    named = http_request.GET.get("provider") or http_request.META.get("HTTP_X_GATEWAY_PROVIDER")
    return str(named) if named else None


async def _read_body(asked: RelayRequest, request: Request) -> None:
    """Puts the request's body into `asked`, a form only as far as its model."""
    http_request: Any = request._request
    content_type = http_request.META.get("CONTENT_TYPE", "")
    has_model = asked.relay not in ACCOUNT_WIDE
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        upload = FormUpload(
            http_request,
            content_type=content_type,
            content_length=http_request.META.get("CONTENT_LENGTH") or "",
            has_model=has_model,
        )
        asked.upload = upload
        asked.model = await upload.find_model()
        return
    raw = await read_json_body(request)
    asked.body = parse_object(raw)
    asked.size = 0 if asked.relay == "images" else len(raw)  # pixels in base64 are no prompt
    looked = convert(asked.body, _Looked)
    if has_model:
        asked.model = looked.model or None


async def _drain(request: Request) -> None:
    """A caller still sending would see its connection break instead of the answer."""
    drain = getattr(request._request, "drain", None)
    if drain is not None:
        await drain()


def _checked(identifier: str) -> str:
    """An id that goes into the upstream's path. Raises NotFound for what can be none."""
    if not _ID.fullmatch(identifier):
        raise NotFound("There is no object of this id.", param="id")
    return identifier


def _list_query(request: Request) -> str:
    """The parameters of a list, to be appended to its path."""
    found = request._request.GET
    named = [(name, found[name]) for name in _LIST_PARAMETERS if name in found]
    if any(len(value) > 200 for _, value in named):
        raise InvalidRequest("A parameter of the query is too long.")
    return f"?{urlencode(named)}" if named else ""


class ModerationsView(RelayView):
    """Whether a text or an image is harmful."""

    family = "moderations"

    @extend_schema(**described("createModeration", "Classify inputs", json=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/moderations", endpoint="moderations")


class RerankView(RelayView):
    """Documents in the order of their relevance to a query."""

    family = "rerank"

    @extend_schema(**described("createRerank", "Rerank documents", json=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/rerank", endpoint="rerank")


class ImageGenerationsView(RelayView):
    """Images of a prompt."""

    family = "images"

    @extend_schema(**described("createImage", "Generate images", json=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/images/generations", endpoint="images.generations")


class ImageEditsView(RelayView):
    """Images changed as a prompt says."""

    family = "images"

    @extend_schema(**described("createImageEdit", "Edit images", json=True, form=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/images/edits", endpoint="images.edits")


class ImageVariationsView(RelayView):
    """Variations of an image."""

    family = "images"

    @extend_schema(**described("createImageVariation", "Vary an image", form=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/images/variations", endpoint="images.variations")


class SpeechView(RelayView):
    """A text, spoken."""

    family = "audio"

    @extend_schema(**described("createSpeech", "Speak a text", json=True, binary=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/audio/speech", endpoint="audio.speech")


class TranscriptionsView(RelayView):
    """What is said in a recording."""

    family = "audio"

    @extend_schema(**described("createTranscription", "Transcribe a recording", form=True))
    async def post(self, request: Request) -> AnyAnswer:
        path = "/audio/transcriptions"
        return await self.pass_on(request, path, endpoint="audio.transcriptions")


class TranslationsView(RelayView):
    """What is said in a recording, in English."""

    family = "audio"

    @extend_schema(**described("createTranslation", "Translate a recording", form=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/audio/translations", endpoint="audio.translations")


class FilesView(RelayView):
    """Files in a provider's account."""

    family = "files"

    @extend_schema(**described("listFiles", "List files", is_list=True))
    async def get(self, request: Request) -> AnyAnswer:
        path = f"/files{_list_query(request)}"
        return await self.pass_on(request, path, endpoint="files.list", has_body=False)

    @extend_schema(**described("createFile", "Upload a file", form=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/files", endpoint="files.create")


class FileView(RelayView):
    """One file of a provider's account."""

    family = "files"

    @extend_schema(**described("retrieveFile", "Describe a file"))
    async def get(self, request: Request, file_id: str) -> AnyAnswer:
        path = f"/files/{_checked(file_id)}"
        return await self.pass_on(request, path, endpoint="files.retrieve", has_body=False)

    @extend_schema(**described("deleteFile", "Delete a file"))
    async def delete(self, request: Request, file_id: str) -> AnyAnswer:
        path = f"/files/{_checked(file_id)}"
        return await self.pass_on(request, path, endpoint="files.delete", has_body=False)


class FileContentView(RelayView):
    """What is in a file of a provider's account."""

    family = "files"

    @extend_schema(**described("downloadFile", "Download a file", binary=True))
    async def get(self, request: Request, file_id: str) -> AnyAnswer:
        path = f"/files/{_checked(file_id)}/content"
        return await self.pass_on(request, path, endpoint="files.content", has_body=False)


class BatchesView(RelayView):
    """Batches of requests that a provider works through later."""

    family = "batches"

    @extend_schema(**described("listBatches", "List batches", is_list=True))
    async def get(self, request: Request) -> AnyAnswer:
        path = f"/batches{_list_query(request)}"
        return await self.pass_on(request, path, endpoint="batches.list", has_body=False)

    @extend_schema(**described("createBatch", "Create a batch", json=True))
    async def post(self, request: Request) -> AnyAnswer:
        return await self.pass_on(request, "/batches", endpoint="batches.create")


class BatchView(RelayView):
    """One batch."""

    family = "batches"

    @extend_schema(**described("retrieveBatch", "Describe a batch"))
    async def get(self, request: Request, batch_id: str) -> AnyAnswer:
        path = f"/batches/{_checked(batch_id)}"
        return await self.pass_on(request, path, endpoint="batches.retrieve", has_body=False)


class BatchCancelView(RelayView):
    """The end of a batch before its time."""

    family = "batches"

    @extend_schema(**described("cancelBatch", "Cancel a batch"))
    async def post(self, request: Request, batch_id: str) -> AnyAnswer:
        path = f"/batches/{_checked(batch_id)}/cancel"
        return await self.pass_on(request, path, endpoint="batches.cancel", has_body=False)
