"""What is asked at an address of the API that does not exist."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import NotFound
from gateway_api.answers import AnyAnswer
from gateway_api.async_view import AsyncAPIView


@extend_schema(exclude=True)
class UnknownAddressView(AsyncAPIView):
    """404 in the wire's own words, for every method and without a credential: what exists here is
    written in the documentation anyway."""

    open_to_all = True
    permission_classes = []

    async def get(self, request: Request, **_: str) -> AnyAnswer:
        raise NotFound("There is nothing at this address.")

    post = put = patch = delete = get
