from django.apps import AppConfig


class GatewayApiConfig(AppConfig):
    name = "gateway_api"
    verbose_name = "Gateway API"
