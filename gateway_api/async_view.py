"""A DRF view whose dispatch is a coroutine, for handlers that are coroutines.

DRF's authentication, permissions, throttles, parsers, OPTIONS metadata and schema stay as they
are; they run in the event loop because nothing in them waits: whoever calls is found out before
(`identify`), and bodies are bytes until a handler parses them. Rendering is the handler's too,
because a DRF `Response` renders in a thread. adrf was measured and left: slower, and a permission
that raises CancelledError passes there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from django.conf import settings
from django.http import HttpRequest
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.views import APIView

from chat.errors import (
    AuthenticationFailed,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from chat.parsing import parse_object
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer, json_answer
from gateway_api.errors import as_gateway_error, error_answer
from keys.authentication import CallerAuthentication, IsCaller, header, identify
from keys.caller import Caller
from usage.metering import AUTH_FAILURES, REFUSALS
from usage.tally import note

LARGE = 1 << 20
"""Bytes of a body that takes longer to parse than others should wait."""
Parsed = TypeVar("Parsed")
Parse = Callable[[bytes], Parsed]


class FirstRenderer(BaseContentNegotiation):
    """JSON, whatever `Accept` says: every client of the API means JSON."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        return renderers[0], renderers[0].media_type


_AUTHENTICATORS = [CallerAuthentication()]
_PARSERS = [JSONParser()]
_PERMISSIONS = [IsCaller()]
_NEGOTIATOR = FirstRenderer()
_NOTED = {AuthenticationFailed: AUTH_FAILURES, RateLimited: REFUSALS}
"""What is counted because no line of the journal tells of it."""


class AsyncAPIView(APIView):
    """An APIView with `async def get/post/…`. Its requests take the lean path (`asgi_handler`)."""

    lean: ClassVar[bool] = True
    open_to_all: ClassVar[bool] = False
    """True for the few addresses that need no credential."""
    request: Request

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        return Request(
            request,
            parsers=_PARSERS,
            authenticators=_AUTHENTICATORS,
            negotiator=_NEGOTIATOR,
            parser_context={"view": self, "args": args, "kwargs": kwargs},
        )

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """DRF's steps without versioning and negotiation: the path says one, JSON is the other."""
        self.check_permissions(request)
        if self.throttle_classes:
            self.check_throttles(request)

    def get_authenticators(self) -> Any:
        return _AUTHENTICATORS

    def get_parsers(self) -> Any:
        return _PARSERS

    def get_permissions(self) -> Any:
        if self.permission_classes == [IsCaller]:
            return _PERMISSIONS
        return super().get_permissions()

    def get_content_negotiator(self) -> Any:
        return _NEGOTIATOR

    async def dispatch(  # type: ignore[override]
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> AnyAnswer:
        self.args, self.kwargs = args, kwargs
        self.request = self.initialize_request(request, *args, **kwargs)
        try:
            if not self.open_to_all:
                caller = request.caller = await identify(request)  # type: ignore[attr-defined]
                # Set, or DRF asks its authenticators at every look. Our users are callers.
                self.request.user = caller  # type: ignore[assignment]
            self.initial(self.request, *args, **kwargs)
            answer = await self._handler(request.method or "")(self.request, *args, **kwargs)
        except Exception as error:  # an edge: whatever happens is told in the wire's own format
            failure = as_gateway_error(error)
            if type(failure) in _NOTED:
                note(_NOTED[type(failure)])
            answer = self.explain(failure)
        finally:
            # DRF's request holds itself and us in there: a cycle for the collector.
            self.request.parser_context.clear()
        assert isinstance(answer, Answer | StreamAnswer), "a DRF Response would render in a thread"
        return answer

    def _handler(self, method: str) -> Callable[..., Awaitable[AnyAnswer]]:
        name = method.lower()
        if name == "options":
            return self._describe
        if name == "head":
            name = "get"
        handler = getattr(self, name, None) if name in self.http_method_names else None
        if handler is None:
            raise MethodNotAllowed(f"The method {method} is not allowed here.")
        found: Callable[..., Awaitable[AnyAnswer]] = handler
        return found

    async def _describe(self, request: Request, *args: Any, **kwargs: Any) -> AnyAnswer:
        metadata = self.options(request, *args, **kwargs)
        return json_answer(metadata.data, headers=[("allow", ", ".join(self.allowed_methods))])

    def explain(self, error: GatewayError) -> Answer:
        """An error in this view's wire format."""
        answer = error_answer(error)
        if isinstance(error, MethodNotAllowed):
            answer.headers.append((b"allow", ", ".join(self.allowed_methods).encode()))
        elif answer.status == 401:
            answer.headers.append((b"www-authenticate", b"Bearer"))
        return answer

    @property
    def caller(self) -> Caller:
        """Who asks. DRF's `request.user` is the same, at three times the cost a look."""
        caller = self.request._request.caller  # type: ignore[attr-defined]
        assert isinstance(caller, Caller)
        return caller


def require_json(content_type: str) -> None:
    """Raises UnsupportedMediaType for a body that does not call itself JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            "Send the request body as JSON, with `content-type: application/json`."
        )


async def read_parsed(request: Request, parse: Parse[Parsed]) -> Parsed:
    """What `parse` makes of a JSON body; of a large one in a thread, so that the requests of others
    come in between its steps (M5). Raises what `read_json_body` and `parse` raise."""
    return await parse_apart(await read_json_body(request), parse)


async def parse_apart(raw: bytes, parse: Parse[Parsed]) -> Parsed:
    """What `parse` makes of a body, of a large one in a thread."""
    if len(raw) < LARGE:
        return parse(raw)
    return await asyncio.to_thread(parse, raw)


async def read_optional(request: Request) -> dict[str, Any]:
    """A JSON object that need not be there: no body says nothing. Raises what `read_json_body`
    does, and InvalidRequest for what is no object."""
    http_request: Any = request._request
    length = header(http_request, "content-length")
    if length in (None, "0") and header(http_request, "transfer-encoding") is None:
        return {}
    return await read_parsed(request, parse_object)


async def read_json_body(request: Request) -> bytes:
    """The bytes of a JSON body. Raises UnsupportedMediaType, RequestTooLarge, RequestTimeout."""
    http_request: Any = request._request
    require_json(header(http_request, "content-type") or "")
    if header(http_request, "content-encoding") not in (None, "identity"):
        raise UnsupportedMediaType("Send the request body as it is, without a `content-encoding`.")
    read_body = getattr(http_request, "read_body", None)
    if read_body is None:  # the stock handler has read it already
        return bytes(http_request.body)
    try:
        body: bytes | None = await read_body(settings.MAX_BODY_BYTES, settings.BODY_TIMEOUT_S)
    except TimeoutError:
        raise RequestTimeout("The request body came too slowly.") from None
    if body is None:
        raise RequestTooLarge(
            f"The request body is larger than {settings.MAX_BODY_BYTES // (1 << 20)} MiB."
        )
    if not body:
        raise InvalidRequest("The request body is empty.", code="invalid_json")
    return body
