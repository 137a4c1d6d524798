"""Tools behind a URL: one signed POST through the outbound guard, redirects never followed."""

from __future__ import annotations

import hashlib
import hmac
import time

import orjson
from django.conf import settings

from chat.errors import UpstreamFailed
from providers.http import HttpClient, HttpReply, Timeouts, shared_client
from providers.outbound import OutboundPolicy
from tools_app.results import MAX_RESULT, ToolCall, ToolResult

SIGNATURE = "x-gateway-signature"
_SHOWN_OF_A_FAILURE = 2000


def tools_client() -> HttpClient:
    """The running loop's client for addresses that tools have."""
    return shared_client(OutboundPolicy.for_tools(settings.OUTBOUND_ALLOW))


def sign(body: bytes, secret: str, *, at: int) -> str:
    """The signature's header: `t=<unix seconds>,v1=<hex HMAC-SHA256 over "<t>." + body>`. The empty
    secret signs nothing: anybody has it (CVE-2026-41432)."""
    assert secret, "nothing is signed with an empty secret"
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256)
    return f"t={at},v1={digest.hexdigest()}"


async def call_http(call: ToolCall) -> ToolResult:
    """Raises UpstreamError where no answer came."""
    tool = call.tool
    body = orjson.dumps(
        {
            "name": tool.name,
            "arguments": call.arguments,
            "call_id": call.call_id,
            "session_id": call.session_id,
        }
    )
    headers = {
        **{name.lower(): value for name, value in tool.headers.items()},
        "content-type": "application/json",
        "x-request-id": call.request_id,
        SIGNATURE: sign(body, tool.signing_secret, at=int(time.time())),
    }
    reply = await tools_client().request(
        "POST", tool.url, headers=headers, body=body, timeouts=timeouts_of(tool.timeout_s)
    )
    try:
        return await _read(reply)
    finally:
        reply.close()


def timeouts_of(seconds: float) -> Timeouts:
    """The whole time for each phase: `total` bounds them all."""
    return Timeouts(connect=min(5.0, seconds), first_byte=seconds, idle=seconds, total=seconds)


async def _read(reply: HttpReply) -> ToolResult:
    try:
        raw = await reply.read(limit=MAX_RESULT)
    except UpstreamFailed:
        return ToolResult(f"The tool's answer is larger than {MAX_RESULT >> 20} MiB.", "too_large")
    text = text_of(raw, reply.headers.get("content-type") or "")
    if not 200 <= reply.status < 300:
        told = (text or "")[:_SHOWN_OF_A_FAILURE]
        return ToolResult(f"The tool answered with status {reply.status}. {told}".strip(), "status")
    if text is None:
        return ToolResult("The tool's answer could not be read: it is no text.", "unreadable")
    return ToolResult(text)


def text_of(raw: bytes, content_type: str) -> str | None:
    """An answer as text; None for what is none, or is not the JSON it says it is."""
    media_type, _, parameters = content_type.lower().partition(";")
    encoding = "latin-1" if "iso-8859-1" in parameters else "utf-8"
    try:
        text = raw.decode(encoding)
        if raw and (media_type.strip() == "application/json" or "+json" in media_type):
            orjson.loads(raw)
    except ValueError:  # of either: a JSONDecodeError is one
        return None
    return None if "\0" in text else text  # no database holds a NUL
