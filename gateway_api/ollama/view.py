"""What the views of the Ollama wire share: its error envelope, and its clients' model names."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema

from chat.errors import GatewayError
from gateway_api.answers import Answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.not_found import UnknownAddressView
from gateway_api.ollama.encoding import error_body
from gateway_api.resources import configuration, http_client
from providers import discovery

_TAG = ":latest"


class OllamaView(AsyncAPIView):
    """An AsyncAPIView whose errors are `{"error": "…"}`."""

    def explain(self, error: GatewayError) -> Answer:
        answer = super().explain(error)
        answer.body = error_body(error)
        return answer


@extend_schema(exclude=True)
class UnknownOllamaAddressView(OllamaView, UnknownAddressView):
    """404 in Ollama's words."""


async def public_name(name: str | None) -> str | None:
    """A model's name without the `:latest` that clients of Ollama put to names without a tag,
    where only the name without it is known here."""
    if not name or not name.endswith(_TAG):
        return name
    current = configuration()
    bare = name.removesuffix(_TAG)
    if name in current.routes or bare in current.routes:
        return name if name in current.routes else bare
    provider = current.providers.get(name.partition("/")[0])
    if provider is None:
        await discovery.list_all(current, http_client())
    elif provider.usable:
        await discovery.list_models(provider, http_client())
    known = set(discovery.public_names(current))
    known.update(each.partition("/")[2] for each in list(known))
    return bare if bare in known and name not in known else name
