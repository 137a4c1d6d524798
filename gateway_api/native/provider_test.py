"""`POST /v1/providers/test`: does a provider answer, before anything about it is stored?

An endpoint that tries out what its caller wrote is where gateways were broken into (CVE-2026-42271,
CVE-2024-6587): it is for administrators; it runs nothing a caller could name but an installed
model; it connects only where the outbound guard lets it; and an address a caller wrote is asked
with what that caller wrote and nothing of ours, no stored or inherited credential and none of a
provider's options (M43).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request

from chat.errors import InvalidRequest
from chat.parsing import parse_object
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView, read_json_body
from gateway_api.openai.schema import ERROR
from gateway_api.resources import configuration
from keys.authentication import IsAdmin
from providers.connection import ConnectionFailure, ConnectionReport, test_connection
from providers.models import Kind, validate_base_url
from providers.outbound import OutboundPolicy
from providers.snapshot import ProviderFacts, Snapshot

DEFAULT_TIMEOUT_S = 10.0
SHORTEST_S, LONGEST_S = 0.1, 60.0
MAX_CREDENTIAL = 4096
MAX_URL = 500
MAX_NAME = 200
MODELS_SHOWN = 1000
ERROR_KINDS = ("auth", "network", "dns", "tls", "timeout", "not_found", "rate_limit", "protocol")
FIELDS = ("name", "api_key", "base_url", "model", "timeout")

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_POLICY = OutboundPolicy(allow=settings.OUTBOUND_ALLOW, allow_loopback=True)
"""Where an address of a caller's may lead: where an operator's may, but names are looked up here
and not left to a proxy, which may know hosts inside that we would refuse."""

_TEXT = {"type": "string"}
_REQUEST = {
    "application/json": {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {**_TEXT, "description": "A configured provider, or a kind."},
            "api_key": {**_TEXT, "description": "In place of the stored one."},
            "base_url": {
                **_TEXT,
                "description": "In place of the stored one, which takes the stored credential out "
                "of play: only `api_key` is sent there.",
            },
            "model": {**_TEXT, "description": "Asked for a token; without, models are listed."},
            "timeout": {
                "type": "number",
                "minimum": SHORTEST_S,
                "maximum": LONGEST_S,
                "default": DEFAULT_TIMEOUT_S,
                "description": "Seconds for all of it.",
            },
        },
    }
}
_REPORT = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["success", "error"]},
        "provider": _TEXT,
        "model": {"type": ["string", "null"]},
        "latency_ms": {"type": "integer"},
        "models": {"type": "array", "items": _TEXT, "maxItems": MODELS_SHOWN},
        "response": {**_TEXT, "description": "The model's answer, where one was asked."},
        "error": {
            "type": "object",
            "properties": {"kind": {**_TEXT, "enum": list(ERROR_KINDS)}, "message": _TEXT},
        },
    },
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request as it was read. `base_url` and `api_key` are the caller's own."""

    name: str
    api_key: str | None
    base_url: str | None
    model: str | None
    timeout_s: float


class ProviderTestView(AsyncAPIView):
    """One attempt at a provider as it is configured, or as it might be."""

    permission_classes = [IsAdmin]

    @extend_schema(
        operation_id="test_provider",
        summary="Test a provider",
        description="For an admin key or staff. Nothing is stored. A provider that cannot be "
        "reached is an answer too: status 200, and `error` says why.",
        request=_REQUEST,
        responses={
            (200, "application/json"): _REPORT,
            **{
                (status, "application/json"): OpenApiResponse(ERROR, description=meaning)
                for status, meaning in (
                    (400, "The request is wrong; `param` says where."),
                    (401, "The key is missing, unknown, expired or revoked."),
                    (403, "The key is not an admin's."),
                    (413, "The request is too large."),
                    (415, "The body does not call itself JSON."),
                )
            },
        },
        tags=["Providers"],
    )
    async def post(self, request: Request) -> AnyAnswer:
        wanted = read_wanted(parse_object(await read_json_body(request)))
        return json_answer(as_answer(await try_out(configuration(), wanted)))


async def try_out(current: Snapshot, wanted: Wanted) -> ConnectionReport:
    """Raises InvalidRequest where `name` is neither a provider nor a kind, or lacks an address."""
    provider = current.providers.get(wanted.name)
    if provider is not None and wanted.base_url is None:
        return await _as_configured(provider, wanted)
    kind = provider.kind if provider is not None else wanted.name
    if kind not in Kind.values:
        raise InvalidRequest(
            f"'{wanted.name}' is neither a provider nor one of the kinds {', '.join(Kind.values)}.",
            param="name",
            code="provider_not_found",
        )
    if kind == Kind.OPENAI_COMPATIBLE and wanted.base_url is None:
        raise InvalidRequest("This kind has no address of its own.", param="base_url")
    return await test_connection(
        kind,
        wanted.base_url or "",
        api_key=wanted.api_key or "",
        model=wanted.model,
        timeout_s=wanted.timeout_s,
        provider=wanted.name,
        policy=_POLICY,
        models_shown=MODELS_SHOWN,
    )


async def _as_configured(provider: ProviderFacts, wanted: Wanted) -> ConnectionReport:
    if provider.problem is not None and not (provider.lacks_credential and wanted.api_key):
        kind = "auth" if provider.lacks_credential else "protocol"
        message = f"The provider is not set up: {provider.problem}."
        failure = ConnectionFailure(kind, message)
        return ConnectionReport(provider.name, wanted.model, error=failure)
    return await test_connection(
        provider.kind,
        provider.base_url,
        api_key=wanted.api_key or provider.api_key,
        model=wanted.model,
        timeout_s=wanted.timeout_s,
        provider=provider.name,
        options=provider.options,
        models_shown=MODELS_SHOWN,
    )


def as_answer(report: ConnectionReport) -> dict[str, Any]:
    """The report as the API tells it: `response` and `error` only where there is one."""
    answer: dict[str, Any] = {
        "status": report.status,
        "provider": report.provider,
        "model": report.model,
        "latency_ms": report.latency_ms,
        "models": list(report.models),
    }
    if report.response is not None:
        answer["response"] = report.response
    if report.error is not None:
        kind = report.error.kind if report.error.kind in ERROR_KINDS else "protocol"
        answer["error"] = {"kind": kind, "message": report.error.message}
    return answer


# --- the body ---------------------------------------------------------------------------------


def read_wanted(body: dict[str, Any]) -> Wanted:
    """Raises InvalidRequest that names the field. A field that does not exist is refused: where
    `url` is written for `base_url`, the stored address must not be tested in its place."""
    for field in body:
        if field not in FIELDS:
            raise InvalidRequest(
                f"There is no field '{field[:64]}' here; there are {', '.join(FIELDS)}.",
                param=field[:64],
                code="unknown_parameter",
            )
    name = _read_text(body, "name", longest=MAX_NAME)
    if name is None:
        raise InvalidRequest(
            "Missing required parameter: 'name'.", param="name", code="missing_required_parameter"
        )
    return Wanted(
        name=name,
        api_key=_read_visible(body, "api_key", longest=MAX_CREDENTIAL),
        base_url=_read_url(body),
        model=_read_text(body, "model", longest=MAX_NAME),
        timeout_s=_read_timeout(body),
    )


def _read_text(body: dict[str, Any], field: str, *, longest: int) -> str | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequest(f"'{field}' must be a string.", param=field, code="invalid_type")
    if not 0 < len(value) <= longest or not value.isprintable() or value != value.strip():
        raise InvalidRequest(
            f"'{field}' must be 1 to {longest} printable characters.",
            param=field,
            code="invalid_value",
        )
    return value


def _read_visible(body: dict[str, Any], field: str, *, longest: int) -> str | None:
    """What goes into a header or a URL: no space, no control character, ASCII only."""
    value = _read_text(body, field, longest=longest)
    if value is not None and not _VISIBLE.fullmatch(value):
        raise InvalidRequest(
            f"'{field}' must be visible ASCII characters without spaces.",
            param=field,
            code="invalid_value",
        )
    return value


def _read_url(body: dict[str, Any]) -> str | None:
    value = _read_visible(body, "base_url", longest=MAX_URL)
    if value is None:
        return None
    try:
        validate_base_url(value)
    except ValidationError as error:
        raise InvalidRequest(
            " ".join(error.messages), param="base_url", code="invalid_value"
        ) from None
    return value


def _read_timeout(body: dict[str, Any]) -> float:
    value = body.get("timeout")
    if value is None:
        return DEFAULT_TIMEOUT_S
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest("'timeout' must be a number.", param="timeout", code="invalid_type")
    if not SHORTEST_S <= value <= LONGEST_S:
        raise InvalidRequest(
            f"'timeout' must be {SHORTEST_S:g} to {LONGEST_S:g} seconds.",
            param="timeout",
            code="invalid_value",
        )
    return float(value)
