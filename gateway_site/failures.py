"""What is said where Django itself has to answer: at addresses nothing serves, to a refused Host,
after a failure of a page. Programs get the API's envelope; the admin's people get a page."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views import defaults

from chat.errors import GatewayError, InvalidRequest, NotFound
from gateway_api.errors import as_gateway_error, error_answer


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_for_people(request):
        return defaults.bad_request(request, exception)
    error = as_gateway_error(exception)
    known = isinstance(error, InvalidRequest)
    return _told(error if known else InvalidRequest("The request is malformed."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_for_people(request):
        return defaults.page_not_found(request, exception)
    return _told(NotFound("There is nothing at this address."))


def failed(request: HttpRequest) -> HttpResponse:
    if _is_for_people(request):
        return defaults.server_error(request)
    return _told(GatewayError("The gateway failed.", code="internal_error"))


def _is_for_people(request: HttpRequest) -> bool:
    return request.path.startswith(reverse("admin:index"))


def _told(error: GatewayError) -> HttpResponse:
    answer = error_answer(error)
    return HttpResponse(answer.body, status=answer.status, content_type="application/json")
