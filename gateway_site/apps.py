from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class GatewaySiteConfig(AppConfig):
    name = "gateway_site"
    verbose_name = "AbstractCore Server"
    default = True


class GatewayAdminConfig(admin_apps.SimpleAdminConfig):
    """The admin's pages are loaded with the addresses (`gateway_site.urls`): a command that serves
    nothing starts a quarter of a second sooner."""

    default = False
    default_site = "gateway_site.admin_site.GatewayAdminSite"
