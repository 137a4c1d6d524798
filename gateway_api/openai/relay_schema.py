"""OpenAPI schemas of the relayed endpoints: what is the gateway's own of them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse

from gateway_api.openai.schema import ERROR, ERROR_RESPONSES

_ANYTHING = {"type": "object", "additionalProperties": True}
_WITH_MODEL = {**_ANYTHING, "properties": {"model": {"type": "string"}}}
_PROVIDER = [
    OpenApiParameter(
        "provider",
        str,
        description="The provider to relay to, where no `model` says so.",
    ),
    OpenApiParameter(
        "x-gateway-provider", str, OpenApiParameter.HEADER, description="The same as `provider`."
    ),
]
_LIST = [
    OpenApiParameter(name, str, description="As the provider takes it.")
    for name in ("after", "limit", "order", "purpose")
]
_RESPONSES = {
    **ERROR_RESPONSES,
    (403, "application/json"): OpenApiResponse(
        ERROR, description="The key may use some models only, and this asks for more."
    ),
    (501, "application/json"): OpenApiResponse(
        ERROR, description="The provider has no such endpoint; the message names who has."
    ),
}


def described(
    operation_id: str,
    summary: str,
    *,
    json: bool = False,
    form: bool = False,
    binary: bool = False,
    is_list: bool = False,
) -> dict[str, Any]:
    """The arguments of `extend_schema` for an endpoint that takes JSON, a form, both or neither,
    and answers with JSON or with bytes."""
    content: dict[str, Any] = {}
    if json:
        content["application/json"] = _WITH_MODEL
    if form:
        content["multipart/form-data"] = _WITH_MODEL
    answer = OpenApiResponse(
        OpenApiTypes.BINARY if binary else _ANYTHING, description="The provider's own answer."
    )
    media_type = "application/octet-stream" if binary else "application/json"
    return {
        "operation_id": operation_id,
        "summary": summary,
        "description": "Relayed to a provider that has it, as it comes.",
        "parameters": [*_PROVIDER, *(_LIST if is_list else ())],
        "request": content or None,
        "responses": {(200, media_type): answer, **_RESPONSES},
        "tags": ["OpenAI wire, relayed"],
    }
