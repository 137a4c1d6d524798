from django.apps import AppConfig


class GatewayApiConfig(AppConfig):
    name = "gateway_api"
    verbose_name = "Gateway API"

    def ready(self) -> None:
        from gateway_api import openapi  # noqa: F401  the import alone makes the scheme known
