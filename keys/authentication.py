"""Who is asking: a virtual key in one of three headers, staff in a browser, or this machine.

The answer is awaited before DRF's own steps (`identify`), because it may need the database; DRF's
authenticator then only hands it over, without a thread.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from django.conf import settings
from django.contrib.auth import get_user
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, CSRFCheck
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from chat.errors import AuthenticationFailed, PermissionDenied, ServiceUnavailable
from keys.caller import ANYONE, LOCAL, Caller
from keys.local_mode import is_local
from keys.models import digest
from keys.ring import ring
from providers.database import in_database

if TYPE_CHECKING:
    # At run time rest_framework.views imports this module, by way of its settings.
    from rest_framework.views import APIView

MAX_CREDENTIAL = 512


async def identify(request: HttpRequest) -> Caller:
    """The caller of a request. Raises AuthenticationFailed, PermissionDenied (a forged browser
    request) and ServiceUnavailable (the database that would know is away)."""
    credential = presented_credential(request)
    if credential is not None:
        caller = await _holder_of(credential)
        if caller is not None:
            return caller
    if settings.AUTH_MODE == "off":
        return ANYONE
    if settings.AUTH_MODE == "local" and is_local(request):
        return LOCAL
    if credential is None and settings.SESSION_COOKIE_NAME in request.COOKIES:
        return await _staff(request)
    raise AuthenticationFailed(
        "The API key is missing."
        if credential is None
        else "The API key is unknown, expired or revoked."
    )


def presented_credential(request: HttpRequest) -> str | None:
    """The key a request carries. A query string is never looked at: it ends up in logs."""
    authorization = header(request, "authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    return header(request, "x-api-key") or header(request, "api-key")


def header(request: HttpRequest, name: str) -> str | None:
    """A header by its lower-case name, from the request's own `field` where it has one: META costs
    more than all that is asked of it here."""
    field = getattr(request, "field", None)
    value: str | None = request.headers.get(name) if field is None else field(name.encode())
    return value


async def _holder_of(credential: str) -> Caller | None:
    if not credential or len(credential) > MAX_CREDENTIAL:
        return None
    try:
        return await ring.find(digest(credential))
    except ServiceUnavailable:
        if settings.AUTH_MODE == "required":
            raise
        return None


async def _staff(request: HttpRequest) -> Caller:
    try:
        caller = await in_database(_signed_in, request)
    except (DatabaseError, InterfaceError):
        raise ServiceUnavailable(
            "The session cannot be checked now: the database is away.",
            code="database_unavailable",
            retry_after="5",
        ) from None
    if caller is None:
        raise AuthenticationFailed("The API key is missing, and the browser is not signed in.")
    return caller


def _signed_in(request: HttpRequest) -> Caller | None:
    """Staff signed in to the admin; their browser has to prove it means to call us (CSRF)."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    request.session = store(request.COOKIES[settings.SESSION_COOKIE_NAME])
    user = get_user(request)
    if not (user.is_active and getattr(user, "is_staff", False)):
        return None
    check = CSRFCheck(lambda _: None)  # type: ignore[arg-type]
    check.process_request(request)
    if _is_from_elsewhere(request, check):
        raise PermissionDenied("A page of another origin asks.", code="csrf_failed")
    reason = check.process_view(request, None, (), {})  # type: ignore[arg-type]  # as DRF does
    if reason:
        raise PermissionDenied("The CSRF token is missing or wrong.", code="csrf_failed")
    return Caller(name=f"staff:{user.get_username()}"[:100], is_admin=True)


def _is_from_elsewhere(request: HttpRequest, check: CSRFCheck) -> bool:
    """Whether a foreign page asks, which Django minds only of requests that change something: the
    browser keeps the answer from it, but a stream of events would be held open. Who follows a link
    from there asks for themselves."""
    meta = request.META
    if "HTTP_ORIGIN" in meta and not check._origin_verified(request):  # type: ignore[attr-defined]  # Django's
        return True
    is_link = meta.get("HTTP_SEC_FETCH_MODE") == "navigate"
    return not is_link and meta.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site")


class CallerAuthentication(BaseAuthentication):
    """Hands the caller that `identify` found to DRF: `request.user`."""

    def authenticate(self, request: Request) -> tuple[Caller, None] | None:
        caller = getattr(request._request, "caller", None)
        return (caller, None) if caller is not None else None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class IsCaller(BasePermission):
    """Anyone who was identified."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.user, Caller)


class IsAdmin(BasePermission):
    """An admin key, staff, or this machine in local mode."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.user, Caller) and request.user.is_admin
